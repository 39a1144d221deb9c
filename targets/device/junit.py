"""A validation as JUnit XML, which CI servers show."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

# XML 1.0 has no form at all for most control characters.
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: dict[str, Any]) -> bytes:
    """One test case for each check and gate of a report: fail and inconclusive are failures, pending is skipped."""
    bundle = report["bundle"]
    title = f"{bundle.get('name', 'bundle')} on {bundle.get('device', 'this device')}"
    cases = [
        _case("check", check["name"], check["verdict"], f"{check['detail']} {check['next_step']}".strip())
        for check in report["checks"]
    ]
    for gate in report["gates"]:
        detail = f"limit {gate['limit']}, measured {gate['measured']}, 95% bound {gate['bound']}"
        cases.append(_case("gate", gate["name"], gate["verdict"], detail))
    suite = ET.Element("testsuite", name=_text(title), tests=str(len(cases)), errors="0")
    for attribute, tag in (("failures", "failure"), ("skipped", "skipped")):
        suite.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    suite.extend(cases)
    return ET.tostring(suite, encoding="utf-8", xml_declaration=True)


def _case(kind: str, name: str, verdict: str, detail: str) -> ET.Element:
    case = ET.Element("testcase", classname=kind, name=_text(name))
    if verdict in ("fail", "inconclusive"):
        ET.SubElement(case, "failure", message=_text(detail), type=verdict)
    elif verdict == "pending":
        ET.SubElement(case, "skipped", message=_text(detail))
    else:
        ET.SubElement(case, "system-out").text = _text(detail)
    return case


def _text(value: str) -> str:
    return NOT_XML.sub("?", value)
