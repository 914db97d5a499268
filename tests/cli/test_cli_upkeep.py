"""vstore verify and vstore export on the command line."""

from __future__ import annotations

from pathlib import Path

from cli_run import Shell


def test_verify_says_that_a_store_is_sound(shell: Shell, photos: Path):
    ended = shell("verify", photos)
    assert ended.code == 0
    assert ended.out.startswith("photos: sound (")
    ended = shell("verify", photos, "photos", "--json")
    assert ended.code == 0
    assert ended.json["ok"] is True
    assert ended.json["n_shards"] == 1


def test_verify_ends_with_1_and_names_the_object(shell: Shell, photos: Path):
    (shard,) = photos.glob("data/**/*.shard")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(bytes(data))
    ended = shell("verify", photos)
    assert ended.code == 1
    assert shard.name in ended.out
    assert "fails its checksum" in ended.out
    ended = shell("verify", photos, "--json")
    assert ended.code == 1
    assert ended.json["problems"][0]["object"].endswith(shard.name)


def test_verify_of_a_name_that_is_not_there(shell: Shell, photos: Path):
    ended = shell("verify", photos, "fotos")
    assert ended.code == 1
    assert "did you mean 'photos'" in ended.err


def test_export_and_import_give_the_collection_back(shell: Shell, photos: Path, tmp_path: Path):
    ended = shell("export", photos, "photos", tmp_path / "out", "--json")
    assert ended.code == 0
    assert ended.json["n_rows"] == 60
    ended = shell("import", tmp_path / "other", "copy", tmp_path / "out")
    assert (ended.code, ended.err) == (0, "")
    assert "60 rows into copy" in ended.out
    one, other = (
        shell("search", place, name, "--like", "p7", "-k", 5, "--recall", 1, "--json").json["hits"]
        for place, name in ((photos, "photos"), (tmp_path / "other", "copy"))
    )
    assert one == other
    assert shell("verify", tmp_path / "other").code == 0
    ended = shell("import", tmp_path / "other", "copy", tmp_path / "out", "--json")
    assert ended.code == 1
    assert "CollectionExists" in ended.err
    ended = shell("export", photos, "photos", tmp_path / "gone", "--at", "never")
    assert ended.code == 1
    assert "never" in ended.err
    ended = shell("export", photos, "photos", tmp_path / "out")
    assert ended.code == 1
    assert "is not empty" in ended.err
    ended = shell("import", tmp_path / "other", "b", tmp_path / "other")
    assert ended.code == 1
    assert "is no export" in ended.err


def test_tag_restore_and_gc(shell: Shell, photos: Path):
    ended = shell("tag", photos, "photos", "first", "--json")
    assert ended.code == 0
    version = ended.json["version"]
    ended = shell("tag", photos, "photos")
    assert f"{version}  " in ended.out
    assert ended.out.rstrip().endswith("first")
    listed = shell("tag", photos, "photos", "--json").json["versions"]
    assert listed[-1]["n_rows"] == 60
    assert listed[-1]["tags"] == ["first"]
    ended = shell("restore", photos, "photos", "first")
    assert ended.code == 0
    assert "60 rows" in ended.out
    ended = shell("restore", photos, "photos", "1999-01-01T00:00:00+00:00")
    assert ended.code == 1
    assert "SnapshotNotFound" in ended.err
    ended = shell("gc", photos, "photos", "--dry-run", "--retention-s", 0)
    assert ended.code == 0
    assert "catalog/photos/" in ended.out
    assert "would be deleted" in ended.out
    planned = shell("gc", photos, "photos", "--dry-run", "--retention-s", 0, "--json").json
    done = shell("gc", photos, "photos", "--retention-s", 0, "--json").json
    assert done == {**planned, "dry_run": False}
    assert planned["manifests"]
    assert shell("verify", photos).code == 0
    assert shell("tag", photos, "photos", "first", "--delete").code == 0
    ended = shell("restore", photos, "photos", "first")
    assert ended.code == 1
    assert "no tag" in ended.err


def test_a_field_is_added_and_dropped(shell: Shell, photos: Path):
    ended = shell("add-field", photos, "photos", "stars", "int")
    assert ended.code == 0
    assert ended.out.startswith("photos: field stars of type int is there from version ")
    assert "stars: int" in shell("info", photos).out
    ended = shell("add-field", photos, "photos", "stars", "str")
    assert ended.code == 1
    assert "a field's type does not change" in ended.err
    ended = shell("add-field", photos, "photos", "more", "integer")
    assert ended.code == 1
    assert "did you mean 'int'" in ended.err
    ended = shell("drop-field", photos, "photos", "stars", "--json")
    assert ended.code == 0
    assert ended.json["field"] == "stars"
    assert "stars" not in shell("info", photos).out
    ended = shell("drop-field", photos, "photos", "stars")
    assert ended.code == 1
    assert "no field 'stars'" in ended.err
    assert shell("verify", photos).code == 0
