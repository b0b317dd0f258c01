"""The demo's folder: emptied, locked, and never somebody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploy.demo.errors import StartFailed
from deploy.demo.folder import claimed

if TYPE_CHECKING:
    from pathlib import Path


def test_data_of_an_earlier_demo_is_gone(tmp_path: Path) -> None:
    """Orders of yesterday do not come back."""
    with claimed(tmp_path / "demo"):
        (tmp_path / "demo" / "nats").mkdir()
        (tmp_path / "demo" / "logs" / "shop.log").touch()

    with claimed(tmp_path / "demo"):
        assert sorted(entry.name for entry in (tmp_path / "demo").rglob("*")) == ["lock", "logs"]


def test_a_running_demo_keeps_its_data(tmp_path: Path) -> None:
    """A second demo in the same folder is refused before it touches anything."""
    with claimed(tmp_path):
        (tmp_path / "nats").mkdir()
        with pytest.raises(StartFailed, match="another demo runs"), claimed(tmp_path):
            pass

        assert (tmp_path / "nats").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """A wrong CARILLON_DEMO_FOLDER deletes nothing."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "thesis.txt").touch()

    with pytest.raises(StartFailed, match=r"thesis\.txt"), claimed(tmp_path):
        pass

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["logs", "thesis.txt"]
