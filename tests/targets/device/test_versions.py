import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from targets.device.versions import in_range, installed_version, key

small = st.integers(0, 3).map(str)
releases = st.lists(small, min_size=1, max_size=3).map(".".join)
suffixes = st.tuples(
    st.sampled_from(["", "a1", "b2", "rc1", ".rc.2", "alpha", "-preview3", "c1"]),
    st.sampled_from(["", ".post1", "-2", "r3", ".post"]),
    st.sampled_from(["", ".dev1", "dev", "-dev2"]),
)
public = st.tuples(releases, suffixes).map(lambda parts: parts[0] + "".join(parts[1]))
versions = st.tuples(public, st.sampled_from(["", "+cpu", "+cu12.1"])).map("".join)
plain = st.tuples(st.sampled_from([">=", "<=", ">", "<", "==", "!="]), public).map("".join)
wildcards = st.tuples(st.sampled_from(["==", "!="]), releases, st.just(".*")).map("".join)
compatible = st.lists(small, min_size=2, max_size=3).map(lambda parts: "~=" + ".".join(parts))
ranges = st.lists(st.one_of(plain, wildcards, compatible), max_size=3).map(",".join)


@given(versions, ranges)
def test_agrees_with_the_packaging_library(version, version_range):
    assert in_range(version, version_range) == SpecifierSet(version_range).contains(version, prereleases=True)


@given(public, public)
def test_orders_as_the_packaging_library_does(a, b):
    assert (key(a) < key(b)) == (Version(a) < Version(b))
    assert (key(a) == key(b)) == (Version(a) == Version(b))


@pytest.mark.parametrize(
    ("version", "version_range"),
    [("1.2", "about 1"), ("1.2", ">=x"), ("one", ">=1"), ("1.2", "~=1"), ("1.2", ">=1.*"), ("1.2", "==1.x.*")],
)
def test_what_is_no_version_is_refused(version, version_range):
    with pytest.raises(ValueError, match=r"is not a version|needs at least|invalid literal"):
        in_range(version, version_range)


def test_reads_versions_from_metadata():
    assert in_range(installed_version("numpy") or "", ">=1.24")
    assert installed_version("no-such-distribution") is None
