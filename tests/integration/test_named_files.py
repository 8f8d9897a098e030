"""Files that are named, one by one, in a list or by their folder."""

import inspect
import os
import sys

from xray_batch.pipeline import named_files
from xray_batch.pipeline.named_files import find_files, read_list


def test_a_list_of_paths():
    """One path per line, as the bytes that it is; empty lines and line ends of other systems do not matter."""
    paths = list(read_list([b"a b.dcm\n", b"\n", b"folder/\xff.dcm\r\n", b"last"]))
    assert [os.fsencode(path) for path in paths] == [b"a b.dcm", b"folder/\xff.dcm", b"last"]


class TestFindFiles:
    """Files are found while folders are read."""

    def test_order(self, tmp_path):
        """Files come in order of name, before those of subfolders; a folder that cannot be read is told."""
        for name in ("b.dcm", "a.dcm", "sub2/c.dcm", "sub1/d.dcm", ".hidden", "x.part"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "link").symlink_to(tmp_path / "sub1")
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        names = [str(path.relative_to(tmp_path)) for path in find_files([tmp_path, tmp_path / "absent"])]
        assert names == ["a.dcm", "b.dcm", "dangling", "sub1/d.dcm", "sub2/c.dcm", "absent"]

    def test_a_large_folder_is_read_bit_by_bit(self, tmp_path, monkeypatch):
        """Each file and subfolder comes once, and only so many names are read before the first file is there."""
        monkeypatch.setattr(named_files, "_NAMES", 4)
        for number in range(10):
            (tmp_path / f"{number}.dcm").touch()
            (tmp_path / f"study{number}").mkdir()
            (tmp_path / f"study{number}" / "film.dcm").touch()
        read = []
        monkeypatch.setattr(named_files, "is_ignored", lambda name: bool(read.append(name)))
        found = find_files([tmp_path])
        first = next(found)
        assert len(read) <= 4 + 1  # and the film of a study, where no file came first
        rest = list(found)
        assert len({first, *rest}) == len([first, *rest]) == 20

    def test_a_deep_folder(self, tmp_path):
        """A copy that ran into itself, folders below folders beyond Python's calls, breaks nothing off."""
        film = tmp_path.joinpath(*"d" * 300, "film.png")
        film.parent.mkdir(parents=True)
        film.touch()
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(len(inspect.stack(0)) + 200)
        try:
            assert list(find_files([tmp_path])) == [film]
        finally:
            sys.setrecursionlimit(limit)

    def test_a_folder_that_cannot_be_read(self, tmp_path, monkeypatch):
        """It is yielded itself, so that somebody will say so."""

        def refuse(_path):
            raise PermissionError

        monkeypatch.setattr(named_files.os, "scandir", refuse)
        assert list(find_files([tmp_path])) == [tmp_path]
