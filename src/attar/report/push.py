"""`attar push`: the student, its exports, its card and its report to a Hugging Face repository, in one commit."""

from __future__ import annotations

from pathlib import Path

from attar.errors import AttarError, PolicyError
from attar.facts import PolicyFacts, RunFacts
from attar.report.card import model_card
from attar.report.load import load_whole, require_artifact
from attar.storage import atomic_write

_CARD = "README.md"


def push(
    run_folder: Path, repo_id: str, *, private: bool = False, token: str | None = None, endpoint: str | None = None
) -> str:
    """Create the repository if it is absent, commit the run's files to it, and return its address.

    `student/` becomes the root of the repository, so that `pipeline(model=repo_id)` works; the artifacts of `run.json`,
    `report.html` and `run.json` lie beside it. What else lies in `export/` (refused files, those of an earlier recipe)
    stays here. `token`: absent, the one that `hf auth login` has stored. `endpoint`: another Hub.
    Raises PolicyError where the teacher's terms forbid it, AttarError where files are absent or not those that the
    record speaks of, or where the Hub refuses.
    """
    run = load_whole(run_folder)
    require_pushable(run.policy, repo_id)
    student = run_folder / "student"
    if not (student / "config.json").is_file():
        raise AttarError(
            f"{student}: no student here. Did the run finish? `attar distill` with the same recipe resumes."
        )
    if not (student / _CARD).is_file():
        atomic_write(student / _CARD, model_card(run))
    return _commit(repo_id, _files(run_folder, run), private, token, endpoint)


def require_pushable(policy: PolicyFacts, repo_id: str) -> None:
    """Go on, or raise PolicyError: not to be distributed, not decided, or a name without its prefix."""
    require_distributable(policy, "push", "uploaded")
    prefix, name = policy.student_name_prefix, repo_id.rpartition("/")[2]
    if prefix is not None and not name.startswith(prefix):
        owner = f"{repo_id.rpartition('/')[0]}/" if "/" in repo_id else ""
        raise PolicyError(
            f'push: "{repo_id}": by the terms of {policy.teacher} the student\'s name begins with "{prefix}". '
            f"Nothing was uploaded. Use for example {owner}{prefix}-{name}."
        )


def require_distributable(policy: PolicyFacts, what: str, done: str) -> None:
    """Go on, or raise PolicyError: the terms forbid that the student leaves this machine, or nobody has decided."""
    if policy.decision != "allow":
        raise PolicyError(f"{what}: the policy's decision for {policy.teacher} is `{policy.decision}`: {policy.reason}")
    if not policy.distribute:
        raise PolicyError(
            f'{what}: row "{policy.rule}" of the policy table: {policy.reason} Nothing was {done}. If you may '
            "distribute the student, record `policy.decision: allow` with the reason, and run the recipe again."
        )


def _files(run_folder: Path, run: RunFacts) -> dict[str, Path]:
    """Path in the repository -> file; hidden and unfinished files are left out. Raises AttarError."""
    student = run_folder / "student"
    files = {path.relative_to(student): path for path in _visible(student)}
    for artifact in run.artifacts:
        files |= {path.relative_to(run_folder): path for path in _visible(require_artifact(run_folder, artifact))}
    files |= {Path(name): run_folder / name for name in ("report.html", "run.json")}
    return {inner.as_posix(): path for inner, path in sorted(files.items()) if path.is_file()}


def _visible(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)]


def _commit(repo_id: str, files: dict[str, Path], private: bool, token: str | None, endpoint: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] (that of whichever httpx the Hub's client uses)
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    api = HfApi(endpoint=endpoint, token=token)
    operations = [CommitOperationAdd(path_in_repo=inner, path_or_fileobj=path) for inner, path in files.items()]
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.create_commit(repo_id, operations, commit_message="Distilled with attar")
    except HFValidationError as error:
        raise AttarError(f'push: "{repo_id}" is not a repository\'s name: {error}') from None
    except OfflineModeIsEnabled:
        raise AttarError("push: HF_HUB_OFFLINE is set, so the Hub cannot be reached. Unset it and try again.") from None
    except LocalTokenNotFoundError:
        raise AttarError("push: no token. Log in with `hf auth login`, or set HF_TOKEN.") from None
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[0]
        raise AttarError(
            f"push: the Hub refused ({reason}). Check the repository's name and that your token may write to it "
            "(`hf auth login`, or HF_TOKEN)."
        ) from error
    except (HTTPError, OSError) as error:
        raise AttarError(f"push: the Hub cannot be reached ({error}). Nothing was committed; try again.") from error
    return str(address)
