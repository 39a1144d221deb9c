"""A software bill of materials of a bundle, CycloneDX 1.6: the model files and what runs them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from targets.target import CompiledModel


def write_sbom(identity: dict[str, Any], artifact: "CompiledModel", file: Path) -> None:
    """Writes the SBOM. It holds no time and no serial number, so that the same bundle gives the same bytes."""
    import json

    from cyclonedx import model as cyclonedx
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    from pipeline.files import sha256

    # Its classes are made by a decorator that hides their arguments from a type checker.
    component: Any = Component
    hash_type: Any = cyclonedx.HashType
    bom: Any = Bom()
    model = component(
        name=identity["name"],
        version=str(identity["version"]),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=identity["name"],
    )
    bom.metadata.component = model
    parts = [
        component(
            name=name,
            type=ComponentType.FILE,
            bom_ref=f"file:{name}",
            hashes=[hash_type(alg=cyclonedx.HashAlgorithm.SHA_256, content=sha256(artifact.folder / name))],
        )
        for name in (*artifact.files, *artifact.assets)
    ] + [
        component(name=name, version=versions, type=ComponentType.LIBRARY, bom_ref=f"runtime:{name}")
        for name, versions in sorted(artifact.requires.get("runtime", {}).items())
    ]
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(model, parts)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document.pop("serialNumber", None)
    document["metadata"].pop("timestamp", None)
    file.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
