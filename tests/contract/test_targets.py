"""What holds of every target there is, for every profile that names it: a new file in targets/ is tested unedited."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from calibration.errors import UnsupportedError
from targets import plugins
from targets.profile import load_profile, profile_names
from targets.target import Capabilities, CompiledModel, ModelPackage
from tests.models import answers_of, calibration_of, convolutional, inputs_of, signal_to_noise_db, transformer

PAIRS = [(r.target, name) for name in profile_names() for r in load_profile(name).runtimes]
MODELS = {"convolutional": convolutional, "transformer": transformer}


@pytest.fixture(params=PAIRS, ids="-on-".join)
def pair(request):
    target, profile = request.param
    return plugins.load("targets", target)(), load_profile(profile)


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def package(request, tmp_path):
    return request.param(tmp_path / "float")


def answering(target, profile, package, folder):
    folder.mkdir()
    if target.capabilities(profile).answers_as_it_ships:
        return target.compile(package, profile, 1, folder)
    return target.simulate(package, profile, folder)


@pytest.mark.parametrize("name", plugins.names("targets"))
def test_some_profile_names_it(name):
    assert name in {target for target, _ in PAIRS}


@pytest.mark.parametrize("name", plugins.names("targets"))
def test_it_says_what_it_is_made_with(name):
    target = plugins.load("targets", name)()
    assert target.accepts <= {"onnx", "torch"}
    assert set(target.fingerprint()) == set(target.distributions)


def test_what_a_plan_asks_imports_no_heavy_library():
    program = (
        "import sys\nfrom targets import plugins\nfrom targets.profile import load_profile, profile_names\n"
        "for p in map(load_profile, profile_names()):\n"
        "    for r in p.runtimes:\n"
        "        t = plugins.load('targets', r.target)(); t.capabilities(p), t.decides_by(p), t.fingerprint()\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'nncf', 'openvino', 'tensorrt', 'tensorrt_rtx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_capabilities_are_consistent(pair):
    target, profile = pair
    able = target.capabilities(profile)
    assert isinstance(able, Capabilities)
    assert able.answers_here or not able.executes_here
    assert bool(able.why_not) != able.executes_here
    assert set(able.precisions) <= set(profile.precisions)


def test_a_device_without_the_runtime_is_refused_by_name(pair):
    target, profile = pair
    with pytest.raises(UnsupportedError, match=f"{profile.name} has no runtime") as caught:
        target.capabilities(replace(profile, runtimes=()))
    assert caught.value.next_step


def test_devices_that_decide_alike_share_a_quantized_model(pair):
    target, profile = pair
    facts = target.decides_by(profile)
    assert json.loads(json.dumps(facts)) == facts
    alike = replace(profile, name="another", description="", memory_mb=1, storage_mb=1, cores=64)
    assert target.decides_by(alike) == facts


def test_the_float_model_compiles_to_what_it_says(pair, package, tmp_path):
    target, profile = pair
    (out := tmp_path / "out").mkdir()
    compiled = target.compile(package, profile, 1, out)
    assert CompiledModel.load(out) == compiled
    assert compiled.status == target.capabilities(profile).status
    assert compiled.requires["architecture"] == profile.architecture
    assert set(compiled.requires["isa"]) <= set(profile.isa)
    assert len(compiled.requires["runtime"]) == 1
    assert compiled.size_bytes > 0
    assert (out / "vocabulary.txt").read_text() == "an asset"
    assert (compiled.build is not None) == (compiled.status == "deferred_build")
    written = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert written == {*compiled.files, *compiled.assets, "compiled.json"}
    assert not [name for name in compiled.files if b"/a/local/path" in (out / name).read_bytes()]


def test_every_candidate_is_a_package_and_the_best_answers_nearly_as_float(pair, package, tmp_path):
    target, profile = pair
    inputs = inputs_of(package, 64, seed=2)
    expected = answers_of(answering(target, profile, package, tmp_path / "answering"), inputs)
    candidates = target.candidates(package, profile, calibration_of(package))
    assert candidates
    assert len({candidate.name for candidate in candidates}) == len(candidates)
    # A route may break a model: that is what the quantize stage looks at answers for.
    fidelity_db = []
    for candidate in candidates:
        assert candidate.precision in target.capabilities(profile).precisions
        (folder := tmp_path / candidate.name).mkdir()
        made = candidate.make(folder)
        assert ModelPackage.load(folder) == made
        assert made.precision == candidate.precision
        assert made.inputs == package.inputs
        assert (folder / "vocabulary.txt").exists()
        found = answers_of(answering(target, profile, made, tmp_path / f"{candidate.name}-answering"), inputs)
        fidelity_db.append(signal_to_noise_db(expected, found))
    assert 20 < max(fidelity_db) < 90


def test_a_candidate_and_its_artifact_are_the_same_bytes_each_time(pair, package, tmp_path):
    target, profile = pair
    made = []
    for attempt in ("first", "second"):
        (folder := tmp_path / attempt / "package").mkdir(parents=True)
        (out := tmp_path / attempt / "compiled").mkdir()
        target.compile(target.candidates(package, profile, calibration_of(package))[0].make(folder), profile, 1, out)
        made.append({p.relative_to(tmp_path / attempt): p.read_bytes() for p in (tmp_path / attempt).rglob("*.*")})
    assert made[0] == made[1]
