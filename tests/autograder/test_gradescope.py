"""The zip for Gradescope: its contract, its bytes, and a dry run with what a container leaves to root."""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from itertools import permutations
from pathlib import Path

import pytest
from dry_run import lay_out, run

from autograder.cli import main
from autograder.course import gradescope, supervisor
from autograder.course.gradescope import build, complaints
from autograder.feedback.results import FAILED_TEXT, not_run, validate
from autograder.grading import policy
from autograder.grading.policy import Policy, PolicyError, applied, attempts_used, duration, late_share, read_metadata
from autograder.homeworks.folder import load_homework
from autograder.homeworks.mutant import mutants, mutated
from autograder.homeworks.strip import source_path

FEW_SHOT = load_homework("hw8_few_shot")
AS_ROOT = sys.platform == "linux" and os.geteuid() == 0
DUE = {"created_at": "2026-03-02T13:00:00-05:00", "assignment": {"due_date": "2026-03-01T18:00:00+00:00"}}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("zip") / "autograder.zip"
    build(FEW_SHOT, path, "a secret", '{"late": [[24, 0.5]]}')
    return path


def test_the_zip_keeps_the_contract_and_the_same_inputs_give_the_same_bytes(packed, tmp_path):
    assert complaints(packed) == []
    again = tmp_path / "again.zip"
    mark = build(FEW_SHOT, again, "a secret", '{"late": [[24, 0.5]]}')
    assert again.read_bytes() == packed.read_bytes()
    assert build(FEW_SHOT, again, "another", '{"late": [[24, 0.5]]}') != mark
    with zipfile.ZipFile(packed) as archive:
        assert b"exec /opt/minipeft/bin/python -I -B" in archive.read("run_autograder")
        assert b"numpy==" in archive.read("setup.sh")
        assert not [n for n in archive.namelist() if n.startswith("homework/hw7")]
        assert archive.getinfo("seed").external_attr >> 16 == 0o100600


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e, d: None if e.filename == "setup.sh" else (e, d), "setup.sh is not at the root"),
        (lambda e, d: (e, d.replace(b"\n", b"\r\n")), "has line ends of Windows"),
        (lambda e, d: (setattr(e, "external_attr", 0o100644 << 16), (e, d))[1], "run_autograder is not executable"),
        (lambda e, d: (setattr(e, "filename", "x/" + e.filename), (e, d))[1], "it lies at x/run_autograder"),
        (lambda e, d: (setattr(e, "filename", "../" + e.filename), (e, d))[1], "leads out of the folder"),
        (lambda e, d: (setattr(e, "external_attr", 0o120777 << 16), (e, d))[1], "is a link or a device"),
        (lambda e, d: (e, d.replace(b"hw8_few_shot", b"hw1_autograd")), "it holds hw8_few_shot, which is another"),
        (
            lambda e, d: (e, d.replace(b"numpy==2.4.6", b"numpy==2.5.5")),
            "numpy 2.5.5, which needs Python 3.12 or newer",
        ),
        (lambda e, d: (setattr(e, "date_time", (2021, 1, 1, 0, 0, 0)), (e, d))[1], "the order or the dates differ"),
    ],
)
def test_a_zip_that_breaks_it_is_told(packed, tmp_path, change, said):
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(other, "w") as new:
        for entry in old.infolist():
            kept = change(entry, old.read(entry.filename))
            if kept is not None:
                new.writestr(*kept)
    assert any(said in text for text in complaints(other)), complaints(other)


def test_the_command_line(packed, tmp_path, capsys):
    out = tmp_path / "a.zip"
    (tmp_path / "seed").write_text("a secret\n")
    (tmp_path / "policy").write_text('{"late": [[24, 0.5]]}')
    command = ["gradescope", "hw8_few_shot", "--out", str(out), "--seed-file", str(tmp_path / "seed")]
    assert main([*command, "--policy", str(tmp_path / "policy")]) == 0
    assert out.read_bytes() == packed.read_bytes()
    assert main(["validate", str(out)]) == 0
    (tmp_path / "policy").write_text('{"late": [[24, 1.5]]}')
    assert main([*command, "--policy", str(tmp_path / "policy")]) == 2
    assert "shares from 0 to 1" in capsys.readouterr().err
    (tmp_path / "no.zip").write_text("x")
    assert main(["validate", str(tmp_path / "no.zip")]) == 1
    assert "it is no zip" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "a policy is"),
        ('{"late": [[1]]}', "a policy is"),
        ('{"lat": []}', "a policy has late and attempts"),
        ('{"late": [[48, 0.5], [24, 0.9]]}', "in ascending order"),
        ('{"attempts": 0}', "at least 1"),
        ('{"late": [[NaN, 0.5]]}', "hours above 0"),
        ("[" * 100_000, "a policy is"),
        ('{"attempts": true}', "at least 1"),
    ],
)
def test_a_policy_that_is_none_is_told(text, said):
    with pytest.raises(PolicyError, match=said):
        Policy.read(text)


@pytest.mark.parametrize(
    ("created", "share"),
    [
        ("2026-03-01T13:00:00-05:00", 1.0),  # 18:00 in UTC: on time to the second
        ("2026-03-01T18:00:01+00:00", 0.9),
        ("2026-03-02T18:00:00+00:00", 0.9),
        ("2026-03-02T18:00:01+00:00", 0.8),
        ("2026-03-03T18:00:01+00:00", 0.0),
        ("yesterday", 1.0),
        (None, 1.0),
    ],
)
def test_lateness_by_the_times_of_the_file_alone(created, share):
    policy = Policy(((24.0, 0.9), (48.0, 0.8)))
    assert late_share(policy, {**DUE, "created_at": created})[0] == share


def test_an_extension_moves_the_due_date():
    own = {**DUE, "users": [{"assignment": {"due_date": "2026-03-09T18:00:00+00:00"}}]}
    assert late_share(Policy(((24.0, 0.5),)), own) == (1.0, "")


def test_a_group_has_the_latest_due_date_of_its_members_in_any_order():
    extended = {"assignment": {"due_date": "2026-03-02T12:00:00+00:00"}}
    members = [{"assignment": {"due_date": "2026-03-01T18:00:00+00:00"}}, extended, {"assignment": None}, {}, "?"]
    policy = Policy(((24.0, 0.5),))
    said = {late_share(policy, {**DUE, "users": list(users)}) for users in permutations(members)}
    assert said == {(0.5, "Handed in 6 hours after the due date: 50 % of the points count.")}
    alone = {late_share(policy, {**DUE, "users": [user]})[1].split(" after")[0] for user in members if user != extended}
    assert alone == {"Handed in 24 hours"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "1 second"),
        (30, "30 seconds"),
        (60, "1 minute"),
        (3599.5, "1 hour"),
        (5400, "1 hour 30 minutes"),
        (86401, "24 hours 1 second"),
    ],
)
def test_how_late_it_is_in_words(seconds, words):
    assert duration(seconds) == words


def test_lateness_is_a_line_of_its_own_and_the_points_before_are_kept():
    made = {**not_run(FEW_SHOT), "score": 20.0}
    late = applied(Policy(((24.0, 0.5),)), {**DUE, "created_at": "2026-03-02T13:00:00+00:00"}, made)
    assert (late["score"], late["extra_data"]["score_before_lateness"]) == (10.0, 20.0)
    assert "50 % of the points count" in late["output"]
    assert applied(Policy(), DUE, made) is made


def test_attempts_that_the_grader_spoiled_do_not_count(tmp_path):
    earlier = [
        {"autograder_error": True},
        {"results": {"extra_data": {"attempt": False}}},
        {"results": {"extra_data": {"attempt": True}}},
        {},
        "?",
    ]
    assert attempts_used({"previous_submissions": earlier}) == 2
    assert attempts_used({}) == 0
    assert read_metadata(tmp_path / "none") == {}


def submission(folder, changed=()):
    folder.mkdir()
    texts = {f.module: source_path(f.module).read_text("utf-8") for f in FEW_SHOT.files} | dict(changed)
    for f in FEW_SHOT.files:
        (folder / f.stub).write_text(texts[f.module], "utf-8")
    return folder


@pytest.mark.skipif(not AS_ROOT, reason="Gradescope runs its graders as root; this process is not")
def test_a_dry_run_with_the_capabilities_of_a_container(packed):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        root = Path(folder) / "autograder"
        mutant = next(m for m in mutants(FEW_SHOT.name) if m.id == "pooled")
        lay_out(root, submission(Path(folder) / "s", mutated(mutant)), packed)
        (root / "submission_metadata.json").write_text(json.dumps(DUE))
        done = run(root)
        assert done.returncode == 0, done.stderr
        assert "uid yes" in done.stdout
        assert "seccomp yes" in done.stdout
        assert not [c for c in validate(root / "results" / "results.json") if c.error]
        made = json.loads((root / "results" / "results.json").read_text())
        points = {t["number"]: t["score"] for t in made["tests"]}
        assert points["8.6"] < 6 == points["8.2"]
        assert made["score"] == pytest.approx(0.5 * sum(points.values()), abs=0.01)
        assert len(made["extra_data"]["grader_sha256"]) == 64
        assert "a secret" not in json.dumps(made)


@pytest.mark.skipif(not AS_ROOT, reason="Gradescope runs its graders as root; this process is not")
def test_a_submission_without_its_files_uses_no_attempt(packed):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = Path(folder) / "autograder"
        empty = Path(folder) / "s"
        empty.mkdir()
        (empty / "essay.txt").write_text("I was ill.")
        lay_out(root, empty, packed)
        assert run(root).returncode == 0
        made = json.loads((root / "results" / "results.json").read_text())
        assert made["score"] == 0
        assert made["extra_data"]["attempt"] is False
        assert "does not count as an attempt" in made["output"]


@pytest.fixture
def laid_out(tmp_path, packed):
    root = tmp_path / "autograder"
    lay_out(root, submission(tmp_path / "s"), packed)
    return root


def results_of(root):
    assert not [c for c in validate(root / "results" / "results.json") if c.error]
    return json.loads((root / "results" / "results.json").read_text())


def spoil_settings(root, monkeypatch):
    (root / "source" / "settings.json").write_text("[")


def spoil_policy(root, monkeypatch):
    (root / "source" / "policy.json").write_text("[" * 100_000)


def spoil_seed(root, monkeypatch):
    (root / "source" / "seed").unlink()


def spoil_start(root, monkeypatch):
    monkeypatch.setattr(supervisor, "CODE", "raise SystemExit(1) # {}")


def spoil_results(root, monkeypatch):
    good = not_run(FEW_SHOT)
    done = {"record": {"status": "graded", "layers": {}}, "results": {**good, "score": float("nan")}}
    monkeypatch.setattr(supervisor.Graders, "grade", lambda *_: done)


@pytest.mark.parametrize("spoil", [spoil_settings, spoil_policy, spoil_seed, spoil_start, spoil_results])
def test_when_the_grader_fails_results_say_so_and_no_attempt_is_used(laid_out, monkeypatch, capfd, spoil):
    spoil(laid_out, monkeypatch)
    assert gradescope.main(str(laid_out)) == 1
    made = results_of(laid_out)
    assert made["output"] == FAILED_TEXT
    assert made["score"] == 0
    assert attempts_used({"previous_submissions": [{"results": made}]}) == 0
    assert len(capfd.readouterr().err) > 50  # staff see why


def test_results_are_there_before_anything_else_is_done(laid_out):
    code = "import os, sys\nfrom autograder.course import gradescope\ngradescope._run = lambda *_: os._exit(9)\n"
    ended = subprocess.run([sys.executable, "-c", code + "gradescope.main(sys.argv[1])", str(laid_out)])
    assert ended.returncode == 9
    assert results_of(laid_out)["extra_data"]["attempt"] is False


def test_what_is_graded_so_far_is_written_after_every_problem(laid_out, monkeypatch):
    made = not_run(FEW_SHOT)
    made["tests"][0]["score"] = made["score"] = 2.0
    seen = []

    def grade(self, entry, rules, keep):
        keep({"record": {"status": "graded"}, "results": made})
        seen.append(results_of(laid_out)["score"])
        return {"record": {"status": "graded", "layers": {}}, "results": {**made, "score": 0.0}}

    monkeypatch.setattr(supervisor.Graders, "grade", grade)
    assert gradescope.main(str(laid_out)) == 0
    assert (seen, results_of(laid_out)["score"]) == ([2.0], 0.0)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, "{", "[]", "\ud800"])
def test_metadata_that_cannot_be_read_are_none(tmp_path, text):
    (tmp_path / "metadata.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert read_metadata(tmp_path / "metadata.json") == {}


def test_gigantic_metadata_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(policy, "LARGEST", 1000)
    (tmp_path / "metadata.json").write_text(json.dumps({"created_at": "x" * 2000}))
    assert read_metadata(tmp_path / "metadata.json") == {}
