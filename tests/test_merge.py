"""Stores into one: what wins, what is refused, and that a kill at any moment leaves a valid store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sdbench import merging_copies
from sdbench.cli import app
from sdbench.cost import archive
from sdbench.cost.records import ProfileResult, ProfileRow, Setting, profile_id
from sdbench.errors import EnvironmentProblem, UserError
from sdbench.merging import Merge, merge
from sdbench.spec import Provenance, TrialResult
from sdbench.store import Store, read_result, seal
from sdbench.validation import validate

Writer = Callable[..., Path]
FAILED = {"status": "failed", "metrics": None, "cost": None, "epochs_done": 0}
INTERRUPTED = {**FAILED, "status": "interrupted"}


def made(hour: int) -> dict[str, Any]:
    """A provenance that ended at that hour."""
    where = {"versions": {"torch": "2.10.0"}, "device": "cpu", "cpu": "Example 9000"}
    return {**where, "started": "2026-01-01T00:00:00.000+00:00", "finished": f"2026-01-01T{hour:02}:00:00.000+00:00"}


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return tmp_path / "theirs"


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return tmp_path / "ours"


def outcomes(done: Merge) -> list[tuple[str, str]]:
    return [(each.outcome, each.reason) for each in done.records]


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def without_locks(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in found.items() if not name.endswith(".lock")}


def test_two_stores_into_a_new_one(theirs: Path, ours: Path, tmp_path: Path, write_trial: Writer) -> None:
    for root, seed in ((theirs, 0), (ours, 1)):
        for method, top1 in (("ce", 0.5), ("ls", 0.75)):
            write_trial(root, method, seed, top1)
    before = files(theirs), files(ours)
    into = tmp_path / "all"
    done = merge([str(theirs), str(ours)], str(into))
    assert outcomes(done) == [("copied", "")] * 4
    assert done.text == f"4 copied, 0 already there, 0 replaced, 0 refused; in {into}"
    assert (files(theirs), files(ours)) == before
    assert without_locks(files(into)) == without_locks(before[0] | before[1])
    assert validate([str(into)]).findings == ()
    assert len(Store(into).scan().results) == 4
    again = merge([str(theirs), str(ours)], str(into))
    assert outcomes(again) == [("already there", "")] * 4
    assert not list(into.rglob(".merging"))


@pytest.mark.parametrize(
    ("their", "our", "keep", "outcome", "stays"),
    [
        ({}, FAILED, "newest", "replaced", "theirs"),
        ({}, INTERRUPTED, "fail", "replaced", "theirs"),
        (FAILED, INTERRUPTED, "newest", "replaced", "theirs"),
        (FAILED, {}, "newest", "already there", "ours"),
        ({**INTERRUPTED, "provenance": made(23)}, {}, "newest", "already there", "ours"),
        ({**INTERRUPTED, "provenance": made(23)}, FAILED, "oldest", "already there", "ours"),
        (INTERRUPTED, {**INTERRUPTED, "epochs_done": 1}, "newest", "already there", "ours"),
        ({"provenance": made(9)}, {"provenance": made(8)}, "newest", "replaced", "theirs"),
        ({"provenance": made(9)}, {"provenance": made(8)}, "oldest", "already there", "ours"),
        ({"provenance": made(7)}, {"provenance": made(8)}, "newest", "already there", "ours"),
        ({"provenance": made(7)}, {"provenance": made(8)}, "oldest", "replaced", "theirs"),
        ({"provenance": made(9)}, {"provenance": made(8)}, "fail", "refused", "ours"),
        ({**FAILED, "reason": "a"}, {**FAILED, "reason": "b"}, "fail", "refused", "ours"),
    ],
)
def test_which_of_two_records_stays(
    theirs: Path, ours: Path, write_trial: Writer, their: dict[str, Any], our: dict[str, Any], keep: str,
    outcome: str, stays: str,
) -> None:  # fmt: skip
    folders = {"theirs": write_trial(theirs, **their), "ours": write_trial(ours, **our)}
    expected = without_locks(files(folders[stays]))
    done = merge([str(theirs)], str(ours), keep)
    assert [each.outcome for each in done.records] == [outcome]
    assert done.records[0].reason
    assert without_locks(files(folders["ours"])) == expected
    assert validate([str(ours)]).errors == ()


def test_started_alone_gives_way_to_a_result(theirs: Path, ours: Path, write_trial: Writer) -> None:
    write_trial(theirs)
    folder = write_trial(ours, **INTERRUPTED)
    (folder / "trial.json").rename(folder / "started.json")
    assert [each.outcome for each in merge([str(theirs)], str(ours)).records] == ["replaced"]
    assert read_result(folder / "trial.json").status == "ok"
    assert not (folder / "started.json").exists()


def test_an_interrupted_trial_takes_what_it_goes_on_from(theirs: Path, ours: Path, write_trial: Writer) -> None:
    folder = write_trial(theirs, **INTERRUPTED)
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "epoch-0001.pt").write_bytes(b"weights")
    merge([str(theirs)], str(ours))
    assert (ours / folder.relative_to(theirs) / "checkpoint" / "epoch-0001.pt").read_bytes() == b"weights"


def curve_of(folder: Path, epochs: int) -> None:
    (folder / "curve.jsonl").write_text("".join(f'{{"epoch": {epoch}}}\n' for epoch in range(epochs)))


def checkpoint_of(folder: Path, epochs: int) -> None:
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / f"epoch-{epochs:06d}.pt").write_bytes(b"weights")


@pytest.mark.parametrize("leave", [curve_of, checkpoint_of])
@pytest.mark.parametrize(("epochs", "outcome"), [(50, "already there"), (2, "already there"), (1, "replaced")])
def test_how_far_a_killed_trial_got_is_in_its_files(
    theirs: Path, ours: Path, write_trial: Writer, leave: Callable[[Path, int], None], epochs: int, outcome: str
) -> None:
    got = {**INTERRUPTED, "epochs_done": 2, "recipe": {"epochs": 100}}
    curve_of(write_trial(theirs, **got), 2)
    write_trial(theirs, **got)  # seals that curve
    folder = write_trial(ours, **INTERRUPTED, recipe={"epochs": 100})
    (folder / "trial.json").rename(folder / "started.json")  # its record says that no epoch is done
    (folder / "curve.jsonl").unlink()
    leave(folder, epochs)
    before = without_locks(files(ours))
    assert [each.outcome for each in merge([str(theirs)], str(ours)).records] == [outcome]
    assert (without_locks(files(ours)) == before) == (outcome == "already there")


def damage_file(folder: Path) -> None:
    (folder / "logits.safetensors").write_bytes(b"other")


def damage_text(folder: Path) -> None:
    path = folder / "trial.json"
    path.write_text(path.read_text().replace('"ece": 0.1', '"ece": 0.2'))


def rewrite(folder: Path, **changes: Any) -> None:
    record = read_result(folder / "trial.json")
    sums = {name: value for name, value in record.checksums.items() if name != "trial.json"}
    content = {**json.loads(record.model_dump_json()), "checksums": sums, **changes}
    (folder / "trial.json").write_text(seal(TrialResult.model_validate(content)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_file, "logits.safetensors was changed"),
        (damage_text, "checksum"),
        (lambda folder: (folder / "trial.json").write_text("{"), "damaged"),
        (lambda folder: rewrite(folder, schema_version=2), "newer"),
        (lambda folder: rewrite(folder, trial_id="0" * 16), "not the hash"),
        (lambda folder: rewrite(folder, checksums={"../../x": "0" * 64}), "no file beside it"),
    ],
)
def test_damaged_records_are_refused_and_named(
    theirs: Path, ours: Path, write_trial: Writer, damage: Callable[[Path], object], words: str
) -> None:
    good, bad = write_trial(theirs, seed=0), write_trial(theirs, seed=1)
    damage(bad)
    done = merge([str(theirs)], str(ours))
    refused = [each for each in done.records if each.outcome == "refused"]
    assert len(refused) == 1
    assert refused[0].place == str(bad / "trial.json")
    assert words in refused[0].reason
    assert refused[0].place in done.text
    assert [r.trial_id for r in Store(ours).scan().results] == [good.name]
    assert validate([str(ours)]).errors == ()
    code = CliRunner().invoke(app, ["merge", str(theirs), "--into", str(ours)]).exit_code
    assert code == 1


def test_a_damaged_record_of_the_destination_is_replaced_and_kept(
    theirs: Path, ours: Path, write_trial: Writer
) -> None:
    write_trial(theirs)
    folder = write_trial(ours)
    damage_text(folder)
    damaged = (folder / "trial.json").read_bytes()
    assert outcomes(merge([str(theirs)], str(ours))) == [("replaced", "the destination's was damaged")]
    assert (folder / "trial.json.damaged-1").read_bytes() == damaged
    assert validate([str(ours)]).errors == ()


@pytest.mark.parametrize("keep", ["newest", "oldest", "fail"])
@pytest.mark.parametrize("name", ["trial.json", "started.json"])
def test_what_a_newer_sdbench_wrote_stays(theirs: Path, ours: Path, write_trial: Writer, keep: str, name: str) -> None:
    write_trial(theirs)
    folder = write_trial(ours)
    rewrite(folder, schema_version=2)
    (folder / "trial.json").rename(folder / name)
    (folder / "network.safetensors").write_bytes(b"weights")
    before = without_locks(files(ours))
    reason = "the destination's record is of a newer sdbench; upgrade sdbench"
    assert outcomes(merge([str(theirs)], str(ours), keep)) == [("refused", reason)]
    assert without_locks(files(ours)) == before


def test_what_a_newer_merge_had_moved_away_stays(theirs: Path, ours: Path, write_trial: Writer) -> None:
    write_trial(theirs)
    folder = write_trial(ours)
    rewrite(folder, schema_version=2)
    old = ours / "trials" / ".merging" / f"{folder.name}.old"
    old.parent.mkdir()
    folder.rename(old)
    with pytest.raises(EnvironmentProblem, match="newer sdbench"):
        merge([str(theirs)], str(ours))
    assert old.is_dir()
    assert not folder.exists()


def test_files_that_the_destination_lacks_or_has_broken_are_filled_in(
    theirs: Path, ours: Path, write_trial: Writer
) -> None:
    source = write_trial(theirs)
    (source / "network.safetensors").write_bytes(b"weights")
    (source / "epoch_logits").mkdir()
    (source / "epoch_logits" / "epoch-0001.safetensors").write_bytes(b"logits")
    write_trial(theirs)  # seals them as well
    merge([str(theirs)], str(ours))
    whole, folder = files(ours), ours / source.relative_to(theirs)
    shutil.rmtree(folder / "epoch_logits")
    (folder / "network.safetensors").unlink()
    (folder / "logits.safetensors").write_bytes(b"broken")
    (folder / "log.txt").write_text("own")
    done = merge([str(theirs)], str(ours), "fail")
    assert [each.outcome for each in done.records] == ["replaced"]
    assert all(name in done.text for name in ("network", "epoch_logits/epoch-0001", " logits.safetensors"))
    assert without_locks(files(ours)) == without_locks(whole) | {f"{folder.relative_to(ours)}/log.txt": b"own"}
    (folder / "network.safetensors").unlink()
    (source / "network.safetensors").unlink()
    assert outcomes(merge([str(theirs)], str(ours))) == [("already there", "")]
    (source / "network.safetensors").write_bytes(b"other")
    assert "network.safetensors was changed" in merge([str(theirs)], str(ours)).records[0].reason
    assert not (folder / "network.safetensors").exists()


@pytest.mark.parametrize("keep", ["newest", "oldest"])
@pytest.mark.parametrize("lacking", ["record alone", "never had"])
def test_no_weights_are_lost_to_a_record_without_them(
    theirs: Path, ours: Path, tmp_path: Path, write_trial: Writer, keep: str, lacking: str
) -> None:
    """Neither to what ``export`` packs, which holds records and curves, nor to a trial that kept none."""
    hours = (2, 1) if keep == "newest" else (1, 2)  # by its date, theirs would win
    source = write_trial(theirs, provenance=made(hours[0]))
    target = write_trial(ours, provenance=made(hours[1]))
    (target / "network.safetensors").write_bytes(b"weights")
    write_trial(ours, provenance=made(hours[1]))  # seals them
    (source / "logits.safetensors").unlink()
    if lacking == "never had":
        write_trial(theirs, provenance=made(hours[0]))
    before = without_locks(files(ours))
    done = merge([str(theirs)], str(ours), keep)
    assert [each.outcome for each in done.records] == ["already there"]
    assert "network.safetensors" in done.text
    assert "logits.safetensors" in done.text
    assert without_locks(files(ours)) == before
    assert Store(ours).teaches(target.name)
    assert [each.outcome for each in merge([str(ours)], str(theirs), keep).records] == ["already there"]  # the older
    write_trial(theirs, provenance=made(hours[0]))
    for name in ("logits.safetensors", "network.safetensors"):
        (source / name).write_bytes(b"other")
    write_trial(theirs, provenance=made(hours[0]))  # with all that the destination has
    assert [each.outcome for each in merge([str(theirs)], str(ours), keep).records] == ["replaced"]


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_lock_that_is_a_link_holds_up_one_trial(
    theirs: Path, ours: Path, tmp_path: Path, write_trial: Writer, side: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("not a lock")
    for seed in range(3):
        folder = write_trial(theirs, seed=seed)
    linked = folder if side == "source" else write_trial(ours, seed=2, provenance=made(1))
    (linked / ".lock").unlink(missing_ok=True)
    (linked / ".lock").symlink_to(victim)
    done = merge([str(theirs)], str(ours))
    assert done.count("copied") == 2
    assert {each.outcome for each in done.records} == {"copied", "refused"}
    assert ".lock is a link" in done.text
    assert ("the destination's" in done.text) == (side == "destination")
    assert victim.read_text() == "not a lock"


@pytest.mark.parametrize("way", ["file", "broken link", "link"])
@pytest.mark.parametrize("above", [0, 1])
def test_what_is_in_the_way_is_refused_and_the_others_come(
    theirs: Path, ours: Path, tmp_path: Path, write_trial: Writer, way: str, above: int
) -> None:
    blocked, free = write_trial(theirs, "ce"), write_trial(theirs, "ls")
    place = [blocked, *blocked.parents][above].relative_to(theirs)
    (ours / place).parent.mkdir(parents=True)
    (tmp_path / "there").mkdir()
    if way == "file":
        (ours / place).write_text("a file")
    else:
        (ours / place).symlink_to(tmp_path / ("there" if way == "link" else "nowhere"))
    what = "file" if way == "file" else "link"
    reason = f"the destination has a {what} at {place.as_posix()}; move it away and merge again"
    assert outcomes(merge([str(theirs)], str(ours))) == [("refused", reason), ("copied", "")]
    assert (ours / free.relative_to(theirs) / "trial.json").is_file()
    assert not list((tmp_path / "there").iterdir())


def test_what_a_source_hides_is_refused(theirs: Path, ours: Path, tmp_path: Path, write_trial: Writer) -> None:
    write_trial(theirs, "ce")
    linked = write_trial(theirs, "ls")
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    (theirs / "profiles").symlink_to(tmp_path)
    deep = theirs.joinpath("trials", *"abcdefghijklmnopqr")
    deep.mkdir(parents=True)
    done = merge([str(theirs)], str(ours))
    refused = {each.place: each.reason for each in done.records if each.outcome == "refused"}
    assert refused == {
        str(linked): "a link, which is not followed",
        str(theirs / "profiles"): "a link, which is not followed",
        str(deep.parent): "nested too deeply for a store; not looked into",
    }
    assert done.count("copied") == 1
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "trials").symlink_to(theirs / "trials")
    with pytest.raises(UserError, match="links are not followed"):
        merge([str(tmp_path / "links")], str(ours))


def test_hostile_names_cannot_leave_the_destination(theirs: Path, tmp_path: Path, write_trial: Writer) -> None:
    write_trial(theirs, dataset="../../../evil", network="/etc", method="..")
    write_trial(theirs, method="a\n\x1b[2J")
    write_trial(theirs, method="m" * 150)
    into = tmp_path / "deep" / "down" / "into"
    before = {path for path in tmp_path.rglob("*") if into not in path.parents}
    done = merge([str(theirs)], str(into))
    assert done.count("copied") == 3
    after = {path for path in tmp_path.rglob("*") if into not in path.parents}
    assert after - before == {into, into.parent, into.parent.parent}
    assert validate([str(into)]).trials == 3
    assert all(line.isprintable() for line in done.text.splitlines())


def test_a_name_longer_than_a_folder_may_have(theirs: Path, ours: Path, write_trial: Writer) -> None:
    folder = write_trial(theirs)
    spec = read_result(folder / "trial.json").spec.model_copy(update={"method": "m" * 300})
    from sdbench.spec import digest

    identity = read_result(folder / "trial.json").identity
    own = digest([spec.model_dump(mode="json"), identity.model_dump(mode="json")])
    rewrite(folder, spec=spec.model_dump(mode="json"), trial_id=own)
    assert "longer than 200" in merge([str(theirs)], str(ours)).records[0].reason


def test_links_of_a_source_are_not_followed(theirs: Path, ours: Path, tmp_path: Path, write_trial: Writer) -> None:
    folder = write_trial(theirs, **INTERRUPTED)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (folder / "log.txt").symlink_to(secret)
    (folder / "checkpoint").symlink_to(tmp_path)
    other = write_trial(theirs, seed=1)
    (other / "curve.jsonl").unlink()
    (other / "curve.jsonl").symlink_to(secret)
    merge([str(theirs)], str(ours))
    assert not any(b"secret" in content for content in files(ours).values())
    assert not any(path.is_symlink() for path in ours.rglob("*"))


def hold_lock(folder: Path) -> subprocess.Popen[str]:
    """A process that holds a trial's lock until its standard input closes."""
    code = (
        "import sys; from pathlib import Path; from sdbench.store import Store\n"
        f"with Store(Path('.')).lock(Path({str(folder)!r})):\n print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_trial_that_a_process_works_on_is_left_alone(theirs: Path, ours: Path, write_trial: Writer) -> None:
    source, target = write_trial(theirs), write_trial(ours, **INTERRUPTED)
    before = without_locks(files(ours))
    for folder in (source, target):
        with hold_lock(folder) as holder:
            done = merge([str(theirs)], str(ours))
            holder.communicate()
        assert [each.outcome for each in done.records] == ["refused"]
        assert "a process" in done.records[0].reason
        assert {k: v for k, v in without_locks(files(ours)).items() if ".merging" not in k} == before
    assert [each.outcome for each in merge([str(theirs)], str(ours)).records] == ["replaced"]


def profile(root: Path, finished: str = "t1", *, interrupted: bool = False) -> Path:
    setting = Setting(network="resnet8", num_classes=3, num_train=8, image_size=32, augment="crop", batch_size=4)
    provenance = Provenance(versions={}, device="cpu", cpu="c", started="t0", finished=finished)
    return archive.write(
        root,
        ProfileResult(
            profile_id=profile_id(setting, ["ce"], provenance), setting=setting, baseline="ce",
            rows=(ProfileRow(method="ce"),), load_start=0, load_end=0, seconds=1, provenance=provenance,
            interrupted=interrupted,
        ),
    )  # fmt: skip


def test_profiles_are_merged_too(theirs: Path, ours: Path) -> None:
    path = profile(theirs)
    assert outcomes(merge([str(theirs)], str(ours))) == [("copied", "")]
    assert files(ours)[str(path.relative_to(theirs))] == path.read_bytes()
    assert outcomes(merge([str(theirs)], str(ours))) == [("already there", "")]
    profile(theirs, "t2")
    assert merge([str(theirs)], str(ours), "fail").count("refused") == 1
    assert merge([str(theirs)], str(ours)).count("replaced") == 1
    profile(theirs, "t3", interrupted=True)
    assert merge([str(theirs)], str(ours)).count("already there") == 1
    assert validate([str(ours)]).findings == ()


def test_bad_requests(theirs: Path, ours: Path, tmp_path: Path, write_trial: Writer) -> None:
    write_trial(theirs)
    for sources, into, keep, words in (
        ([str(tmp_path)], str(ours), "newest", "no results folder"),
        ([str(theirs)], str(theirs), "newest", "the same folder"),
        ([str(theirs)], str(ours), "best", "--keep"),
        ([], str(ours), "newest", "name the results folders"),
        ([str(theirs)], None, "newest", "--into"),
        ([str(theirs)], "", "newest", "--into results"),
    ):
        with pytest.raises(UserError, match=words):
            merge(sources, into, keep)
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(EnvironmentProblem):
        merge([str(theirs)], str(blocker / "x"))


def test_the_command(theirs: Path, ours: Path, write_trial: Writer) -> None:
    write_trial(theirs)
    done = CliRunner().invoke(app, ["merge", str(theirs), "--into", str(ours), "--json"])
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert [each["outcome"] for each in told["records"]] == ["copied"]
    assert CliRunner().invoke(app, ["merge", str(theirs)]).exit_code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text_come_as_json(tmp_path: Path, write_trial: Writer) -> None:
    theirs, ours = (tmp_path / os.fsdecode(name) for name in (b"their\xff", b"our\xff"))
    other = write_trial(theirs).parent / os.fsdecode(b"\xff")
    other.mkdir()
    (other / "trial.json").write_text("{}")
    done = CliRunner().invoke(app, ["merge", str(theirs), "--into", str(ours), "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["into"].endswith("our\\xff")
    assert any(each["place"].endswith("\\xff/trial.json") for each in told["records"])


def test_folders_are_exchanged_at_once_here(tmp_path: Path) -> None:
    """Where this fails, the system lacks the exchange, and the tests below try the other way only."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own").write_text(name)
    if sys.platform == "linux":
        assert merging_copies._exchanged(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "a" / "own").read_text() == "b"


KILLER = """
    import os, signal, shutil, sys
    from pathlib import Path
    from sdbench import merging_copies
    from sdbench.merging import merge

    root, theirs, ours, at_once = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "at_once"
    if not at_once:
        merging_copies._exchanged = lambda a, b: False
    watched = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.scandir", "ctypes.dlsym"}

    def child(into, last):
        count = 0

        def hook(event, arguments):
            nonlocal count
            if event in watched and str(root) in str(arguments[0]) or event == "ctypes.dlsym":
                count += 1
                if count == last:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        merge([theirs], str(into), "newest")

    for point in range(1, 10_000):
        into = root / f"killed-{point:04}"
        shutil.copytree(ours, into)
        pid = os.fork()
        if pid == 0:
            try:
                child(into, point)
            finally:
                os._exit(0)
        if not os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
            break
    print(point)
"""


@pytest.mark.parametrize("way", ["at_once", "in_two_steps"])
def test_a_kill_at_any_moment_leaves_a_valid_store(
    theirs: Path, ours: Path, tmp_path: Path, write_trial: Writer, way: str
) -> None:
    """The merging process kills itself at its first, second, ... opening, renaming, making and removing of a file,
    until it comes through. Each time a trial is there as it was or as it became, and merging again completes it."""
    new = write_trial(theirs, "ce", 0).relative_to(theirs)
    newer = write_trial(theirs, "ls", 0, 0.75, provenance=made(9)).relative_to(theirs)
    write_trial(ours, "ls", 0, 0.75, provenance=made(8))
    places = tmp_path / "places"
    places.mkdir()
    command = [sys.executable, "-c", textwrap.dedent(KILLER), *map(str, (places, theirs, ours)), way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    points = int(done.stdout)
    assert points > 40
    seen = set()
    for place in sorted(places.iterdir()):
        states = tuple(
            read_result(place / folder / "trial.json").provenance.finished[11:13] if (place / folder).exists() else "-"
            for folder in (new, newer)
        )
        seen.add(states)
        assert [f.text for f in validate([str(place)]).errors] == []
        assert merge([str(theirs)], str(place)).count("refused") == 0
        merged = {name: content for name, content in files(place).items() if not name.endswith(".tmp")}
        assert without_locks(merged) == without_locks(files(theirs))
    whole = {("-", "08"), ("01", "08"), ("01", "09")}
    assert whole <= seen <= whole | ({("01", "-")} if way == "in_two_steps" else set())
