from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from targets.device.junit import to_junit

verdicts = st.sampled_from(["pass", "fail", "inconclusive", "pending"])
checks = st.fixed_dictionaries({"name": st.text(), "verdict": verdicts, "detail": st.text(), "next_step": st.text()})
gates = st.fixed_dictionaries(
    {
        "name": st.text(),
        "limit": st.floats(),
        "measured": st.none() | st.floats(),
        "bound": st.none(),
        "verdict": verdicts,
    }
)


@given(st.lists(checks), st.lists(gates), st.dictionaries(st.sampled_from(["name", "device"]), st.text()))
def test_any_report_becomes_xml_that_counts_right(checks, gates, bundle):
    xml = to_junit({"bundle": bundle, "checks": checks, "gates": gates})
    suite = ET.fromstring(xml)  # noqa: S314 - our own output
    found = [item["verdict"] for item in [*checks, *gates]]
    assert suite.get("tests") == str(len(found)) == str(len(suite))
    assert suite.get("failures") == str(found.count("fail") + found.count("inconclusive"))
    assert suite.get("skipped") == str(found.count("pending"))
