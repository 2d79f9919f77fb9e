"""Manifests are valid by the definitions of the kinds that they are of, unknown fields being errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.manifests.deployments import deployed, deployments
from tests.support.manifests.documents import Document
from tests.support.manifests.schema import CRDS, WITHOUT, schema_problems

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    f"{document.file}-{document.kind}-{document.name}": document
    for functions, variant in deployments(ROOT)
    for document in deployed(ROOT, functions, variant, [])
}


@pytest.mark.skipif(not CRDS.exists(), reason=WITHOUT)
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_manifest_is_valid_by_its_definition(document: Document) -> None:
    assert not schema_problems(document)
