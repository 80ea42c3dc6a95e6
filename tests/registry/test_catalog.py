from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hostler.registry.blobs import BlobStore
from hostler.registry.catalog import Catalog, CorruptManifest
from hostler.spec.errors import Conflict, DigestMismatch, InvalidRequest, NotFound
from hostler.spec.model import ModelSpec
from hostler.spec.names import ModelRef
from hostler.spec.version import ModelFacts, ModelFile, ModelVersion

START = datetime(2026, 1, 1, tzinfo=UTC)


def version(blobs: BlobStore | None, name: str = "tiny", content: bytes = b"a", *, day: int = 0) -> ModelVersion:
    """A version of one file; the file is stored if there is a store."""
    digest, size = ("sha256:" + "0" * 64, 1) if blobs is None else blobs.add_stream([content])
    files = (ModelFile(path="weights", digest=digest, size=size),)
    return ModelVersion.build(
        ModelSpec(name=name), files=files, facts=ModelFacts(), created_at=START + timedelta(days=day)
    )


def test_a_version_is_kept_once_and_latest_names_the_last_put(catalog: Catalog, blobs: BlobStore) -> None:
    first, second = version(blobs, day=1), version(blobs, content=b"b")
    assert catalog.put(first)
    assert catalog.put(second)
    assert not catalog.put(second.model_copy(update={"created_at": START + timedelta(days=9)}))
    assert catalog.names() == ["tiny"]
    assert catalog.versions("tiny") == [first, second]
    assert catalog.resolve(ModelRef("tiny", "latest")) == second
    assert catalog.aliases("tiny") == {"latest": second.digest}


def test_a_version_whose_files_are_not_here_is_refused_with_how_many(catalog: Catalog) -> None:
    with pytest.raises(Conflict) as caught:
        catalog.put(version(None))
    assert caught.value.code == "missing_blobs"
    assert "1 of the files" in str(caught.value)
    assert "weights" in str(caught.value)
    assert catalog.names() == []


def test_a_version_that_lies_about_itself_is_refused(catalog: Catalog, blobs: BlobStore) -> None:
    good = version(blobs)
    with pytest.raises(DigestMismatch):
        catalog.put(good.model_copy(update={"digest": "sha256:" + "0" * 64}))
    with pytest.raises(InvalidRequest):
        catalog.put(good.model_copy(update={"model": "other"}))
    with pytest.raises(InvalidRequest):
        catalog.put(good.model_copy(update={"model": "../x"}))
    longer = ModelVersion.build(
        good.card,
        files=(good.files[0].model_copy(update={"size": 7}),),
        facts=good.facts,
        created_at=START,
    )
    with pytest.raises(InvalidRequest, match="7"):
        catalog.put(longer)


def test_a_version_is_found_by_alias_and_by_the_start_of_its_digest(catalog: Catalog, blobs: BlobStore) -> None:
    first, second = version(blobs), version(blobs, content=b"b")
    catalog.put(first)
    catalog.put(second)
    digits = first.digest.removeprefix("sha256:")
    assert catalog.set_alias("tiny", "prod", digits[:12]) == first
    for name in ("prod", digits[:6], digits):
        assert catalog.resolve(ModelRef("tiny", name)) == first
    assert list(catalog.aliases("tiny")) == ["latest", "prod"]
    assert catalog.set_alias("tiny", "prod", "latest") == second
    for name in (digits[:5], "nothing", "ffffff"):
        with pytest.raises(NotFound):
            catalog.resolve(ModelRef("tiny", name))


def test_a_start_that_several_versions_have_is_ambiguous(catalog: Catalog, blobs: BlobStore) -> None:
    folder = catalog.folder / "tiny"
    catalog.put(version(blobs))
    for end in "01":
        (folder / f"{'ab' * 31}c{end}.json").write_text("{}")
    with pytest.raises(Conflict) as caught:
        catalog.resolve(ModelRef("tiny", "ababab"))
    assert caught.value.code == "ambiguous_version"


def test_what_is_unknown_is_told_with_the_nearest_names(catalog: Catalog, blobs: BlobStore) -> None:
    with pytest.raises(NotFound, match="model create"):
        catalog.versions("tiny")
    catalog.put(version(blobs))
    with pytest.raises(NotFound, match=r"Did you mean 'tiny'\? Models: tiny"):
        catalog.resolve(ModelRef("tinny", "latest"))
    with pytest.raises(NotFound, match=r"Did you mean 'latest'\?"):
        catalog.resolve(ModelRef("tiny", "lastest"))


@pytest.mark.parametrize("alias", ["deadbeef", "a b", "", "../x"])
def test_an_alias_must_read_like_one(catalog: Catalog, blobs: BlobStore, alias: str) -> None:
    catalog.put(version(blobs))
    with pytest.raises(InvalidRequest):
        catalog.set_alias("tiny", alias, "latest")


def test_aliases_can_be_deleted_but_not_latest(catalog: Catalog, blobs: BlobStore) -> None:
    catalog.put(version(blobs))
    catalog.set_alias("tiny", "prod", "latest")
    catalog.delete_alias("tiny", "prod")
    with pytest.raises(NotFound):
        catalog.delete_alias("tiny", "prod")
    with pytest.raises(InvalidRequest):
        catalog.delete_alias("tiny", "latest")


def test_deleting_versions_moves_latest_and_the_last_takes_the_model_along(catalog: Catalog, blobs: BlobStore) -> None:
    first, second = version(blobs), version(blobs, content=b"b", day=1)
    catalog.put(first)
    catalog.put(second)
    catalog.set_alias("tiny", "prod", "latest")
    with pytest.raises(Conflict) as caught:
        catalog.delete_version("tiny", "latest")
    assert caught.value.code == "alias_in_use"
    catalog.delete_alias("tiny", "prod")
    assert catalog.delete_version("tiny", "latest") == second.digest
    assert catalog.resolve(ModelRef("tiny", "latest")) == first
    assert catalog.referenced_digests() == {first.files[0].digest}
    catalog.delete_version("tiny", "latest")
    assert catalog.names() == []
    assert catalog.referenced_digests() == set()


def test_a_model_is_deleted_with_all_its_versions(catalog: Catalog, blobs: BlobStore) -> None:
    for content in (b"a", b"b"):
        catalog.put(version(blobs, content=content))
    catalog.put(version(blobs, "other"))
    assert catalog.delete_model("tiny") == 2
    assert catalog.names() == ["other"]
    with pytest.raises(NotFound):
        catalog.delete_model("tiny")


def test_a_damaged_manifest_is_named_and_the_others_are_still_listed(catalog: Catalog, blobs: BlobStore) -> None:
    first, second = version(blobs), version(blobs, content=b"b")
    catalog.put(first)
    catalog.put(second)
    path = catalog.folder / "tiny" / f"{second.digest.removeprefix('sha256:')}.json"
    path.write_text('{"model": ')
    assert catalog.versions("tiny") == [first]
    assert [str(path) in str(problem) for problem in catalog.damaged()] == [True]
    with pytest.raises(CorruptManifest, match=path.name):
        catalog.resolve(ModelRef("tiny", "latest"))
    with pytest.raises(CorruptManifest):
        catalog.referenced_digests()
    assert catalog.put(second)
    assert catalog.resolve(ModelRef("tiny", "latest")) == second
    assert catalog.damaged() == []


def test_a_manifest_under_another_name_is_damaged(catalog: Catalog, blobs: BlobStore) -> None:
    first = version(blobs)
    catalog.put(first)
    path = catalog.folder / "tiny" / f"{first.digest.removeprefix('sha256:')}.json"
    path.rename(path.with_name("0" * 64 + ".json"))
    assert "another version" in str(catalog.damaged()[0])


def test_damaged_aliases_are_named(catalog: Catalog, blobs: BlobStore) -> None:
    catalog.put(version(blobs))
    (catalog.folder / "tiny" / "aliases.json").write_text('{"latest": "../../x"}')
    with pytest.raises(CorruptManifest, match=r"aliases\.json"):
        catalog.resolve(ModelRef("tiny", "latest"))


def put_many(root: Path, start: int) -> None:
    store = BlobStore(root)
    catalog = Catalog(root, store)
    for number in range(start, start + 10):
        catalog.put(version(store, content=str(number).encode()))
        catalog.set_alias("tiny", f"v{number}", "latest")


def test_two_processes_lose_none_of_each_others_aliases(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=put_many, args=(tmp_path, start)) for start in (0, 100)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    catalog = Catalog(tmp_path, BlobStore(tmp_path))
    assert len(catalog.versions("tiny")) == 20
    assert len(catalog.aliases("tiny")) == 21
