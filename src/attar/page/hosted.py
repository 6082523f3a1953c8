"""`attar export RUN --to page`: a copy of the page with one run in it, for any host that serves files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from attar.errors import AttarError
from attar.page.built import GPU, built_page, page_files
from attar.page.runs import REPORT, files_of, listed, page_of, read_checked
from attar.page.samples import samples_of
from attar.page.teacher import RunTeacher
from attar.report.load import load_whole
from attar.report.push import require_distributable
from attar.storage import atomic_folder, atomic_write


def export_page(folder: Path, out: Path) -> Path:
    """Write the folder `out`: the page, the run's student and report, and the teacher's answers on sample rows.

    It runs on one thread there, as most hosts cannot set the headers that threads need, and brings no WebGPU build.
    Raises PolicyError where the teacher's terms forbid handing the student on, AttarError where no student of this run
    runs in a browser, a file was changed, the teacher is gone, or `out` holds something else.
    """
    require_distributable(load_whole(folder).policy, "page", "written")
    page = page_of(folder, asked="samples")
    if page.refused is not None:
        raise AttarError(f"{folder}: {page.refused}")
    if out.exists() and not (out / "runs.json").is_file() and any(out.iterdir()):
        raise AttarError(f"{out}: holds files that are not a page's; nothing was written. Name another folder.")
    samples = samples_of(folder, RunTeacher(folder))
    with atomic_folder(out) as place:
        for name, source in page_files(built_page()).items():
            if GPU not in name:
                _copy(source, place / name)
        home = place / "runs" / page.name
        for name, file in files_of(page).items():
            atomic_write(home / name, read_checked(folder, file))
        atomic_write(home / "page.json", page.model_dump_json())
        atomic_write(home / "samples.json", samples.model_dump_json())
        _copy(folder / REPORT, home / REPORT)
        runs = {"runs": [listed(page.name, folder).model_dump()], "gpu": False}
        atomic_write(place / "runs.json", json.dumps(runs))
    return out


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
