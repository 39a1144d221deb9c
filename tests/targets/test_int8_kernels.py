from dataclasses import replace

import pytest

from targets.int8_kernels import flags_needed, int8_kernels, unlike_here
from targets.profile import load_profile


@pytest.mark.parametrize(
    ("architecture", "isa", "kind"),
    [
        ("x86_64", ("avx2", "avx_vnni"), "vnni"),
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), "vnni"),
        ("x86_64", ("avx2",), "saturating"),
        ("aarch64", ("asimd", "asimddp"), "dot_product"),
        ("aarch64", ("asimd",), "widening"),
    ],
)
def test_flags_decide_the_kind(architecture, isa, kind):
    assert int8_kernels(architecture, isa) == kind


def test_this_machine_is_like_itself_and_unlike_another_architecture():
    host = load_profile("host")
    other = "aarch64" if host.architecture == "x86_64" else "x86_64"
    assert unlike_here(host) == ""
    assert other in unlike_here(replace(host, architecture=other))


def test_only_flags_that_change_answers_are_needed():
    nuc = load_profile("intel-nuc")
    assert flags_needed(nuc) == ["avx_vnni"]
    assert flags_needed(replace(nuc, isa=("avx2",))) == []
    assert flags_needed(load_profile("raspberry-pi-5")) == []
