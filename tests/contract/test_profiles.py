"""What holds of every profile there is: a new file in targets/profiles/ is tested without a line here."""

import pytest
from packaging.specifiers import SpecifierSet

from targets import plugins
from targets.profile import FOLDER, HOST, load_profile, profile_names, profile_yaml, read_profile

FILES = [name for name in profile_names() if name != HOST]


@pytest.fixture(params=FILES)
def profile(request):
    return load_profile(request.param)


@pytest.mark.parametrize("name", profile_names())
def test_it_loads_and_is_named_as_its_file(name):
    assert load_profile(name).name == name


def test_it_names_no_budget_and_no_unknown_key(profile):
    text = (FOLDER / f"{profile.name}.yaml").read_text()
    assert "budget" not in text
    assert text.isascii()


@pytest.mark.parametrize("name", profile_names())
def test_each_target_is_there_and_answers_for_it(name):
    profile = load_profile(name)
    for runtime in profile.runtimes:
        target = plugins.load("targets", runtime.target)()
        capabilities = target.capabilities(profile)
        assert set(capabilities.precisions) <= {*profile.precisions, "fp32"}
        assert bool(capabilities.why_not) != capabilities.executes_here
        assert capabilities.answers_here or not capabilities.executes_here


def test_a_version_range_has_both_ends(profile):
    for runtime in profile.runtimes:
        operators = {part.operator for part in SpecifierSet(runtime.version)}
        assert operators in ({">=", "<"}, {"=="})


def test_the_flags_are_those_of_its_architecture(profile):
    assert len(set(profile.isa)) == len(profile.isa)
    # Without these no wheel of numpy or onnxruntime runs.
    assert {"x86_64": "sse4_2", "aarch64": "asimd"}[profile.architecture] in profile.isa
    assert not [flag for flag in profile.isa if flag.startswith("asimd") != (profile.architecture == "aarch64") and
                flag.startswith(("asimd", "avx", "sse"))]  # fmt: skip


def test_a_gpu_is_stated_where_its_runtime_needs_one(profile):
    for runtime in profile.runtimes:
        if runtime.target.startswith("tensorrt"):
            assert profile.compute_capability is not None


def test_what_is_sped_up_is_a_shorter_type_before_a_longer_one(profile):
    assert profile.precisions[-1] == "fp32"
    assert len(set(profile.precisions)) == len(profile.precisions)


def test_written_and_read_again_it_is_the_same(profile, tmp_path):
    path = tmp_path / "copy.yaml"
    path.write_text(profile_yaml(profile))
    assert read_profile(path) == profile
