"""Sets of files: saved together into a folder that holds other files, old or new after a kill at any moment."""

import ast
import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from minipeft.files import FileError, atomic, current, file_set, read_json, sets
from minipeft.files.sets import COMMITTED, remove_set, sha256
from minipeft.models import DecoderConfig, DecoderLM, Model
from minipeft.peft import AdapterConfig, LoraConfig, PeftError, PeftModel, get_peft_model
from minipeft.peft.huggingface.places import HF_CONFIG, HF_WEIGHTS
from minipeft.peft.saving import CONFIG_FILE, WEIGHTS_FILE

FOREIGN = {"data.csv": b"1,2\r\n", "thesis/chapter1.tex": b"\\section{\xff}", ".hidden": b"", "notes.json": b"not JSON"}
STEPS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "chmod")


class Killed(BaseException):
    """The process has ended: nothing that it would still do happens."""


@contextmanager
def killed_at(step):
    """End the process before its ``step``-th change of a folder; yields a list of the changes that were begun."""
    done = []
    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, counted(name, getattr(os, name), done, step))
        patch.setattr(atomic, "_active", set())  # the names of a process that has ended are nobody's
        with suppress(Killed):
            yield done


def counted(name, real, done, step):
    def act(*args, **kwargs):
        done.append(name)
        if len(done) > step:
            raise Killed
        return real(*args, **kwargs)

    return act


def with_foreign_files(folder):
    for name, content in FOREIGN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def foreign_files(folder):
    return {name: (folder / name).read_bytes() for name in FOREIGN}


def names(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - FOREIGN.keys()


def save(folder, text, *files, **options):
    with file_set(folder, **options) as part:
        for name in files:
            (part / name).write_text(text)


def base():
    return DecoderLM(DecoderConfig.gpt2(vocab_size=11, d_model=8, n_layers=1, n_heads=2, context=8), rng=0)


def adapter(seed, config=None):
    peft = get_peft_model(base(), config or LoraConfig(r=2, lora_alpha=float(seed), target_modules=["q_proj"]), rng=0)
    rng = np.random.default_rng(seed)
    for p in peft.trained().values():
        p.data[...] = rng.normal(size=p.shape)
    return peft


def state(peft):
    return peft.peft_config, {name: p.data.tolist() for name, p in peft.trained().items()}


SAVED = {WEIGHTS_FILE, CONFIG_FILE}
EVERY_FORM = {*SAVED, HF_WEIGHTS, HF_CONFIG}


def test_foreign_files_survive_a_save(tmp_path):
    folder = with_foreign_files(tmp_path)
    adapter(1).save_pretrained(folder)
    base().save_pretrained(folder)
    assert foreign_files(folder) == FOREIGN
    assert names(folder) == {*EVERY_FORM, "config.json", "model.safetensors"}


def test_an_adapter_beside_its_base_leaves_both_loadable(tmp_path):
    base().save_pretrained(tmp_path)
    peft = adapter(1)
    peft.save_pretrained(tmp_path)
    model = Model.from_pretrained(tmp_path)
    assert all(np.array_equal(x, y) for x, y in zip(model.state_dict().values(), base().state_dict().values()))
    assert state(PeftModel.from_pretrained(model, tmp_path)) == state(peft)


def test_a_broken_file_of_somebody_beside_a_model_does_not_matter(tmp_path):
    base().save_pretrained(tmp_path)
    (tmp_path / "other.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    Model.from_pretrained(tmp_path)


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    adapter(1).save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == EVERY_FORM
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


def test_the_current_folder_can_be_saved_into(tmp_path, monkeypatch):
    monkeypatch.chdir(with_foreign_files(tmp_path))
    adapter(1).save_pretrained(".")
    PeftModel.from_pretrained(base(), ".")
    assert foreign_files(tmp_path) == FOREIGN
    assert names(tmp_path) == EVERY_FORM


def test_a_folder_that_cannot_be_renamed_such_as_a_mount_point_can_be_saved_into(tmp_path, monkeypatch):
    def busy(real):
        def rename(source, target):
            if tmp_path in (Path(source), Path(target)):
                raise OSError(errno.EBUSY, "Device or resource busy", str(source))
            real(source, target)

        return rename

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, busy(getattr(os, name)))
    for seed in (1, 2):
        adapter(seed).save_pretrained(tmp_path)
    assert names(tmp_path) == EVERY_FORM


@pytest.fixture
def public(request):
    """A folder that every user of the machine may enter (pytest's own is private)."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def without_privileges():
    """Act as a user whom permissions hold back, if this one is root."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_an_own_folder_in_a_parent_that_is_not_writable_can_be_saved_into(public):
    own = public / "parent" / "own"
    own.mkdir(parents=True)
    own.chmod(0o777)
    own.parent.chmod(0o555)
    peft = adapter(1)
    with without_privileges():
        peft.save_pretrained(own)
        assert names(own) == EVERY_FORM
        with pytest.raises(FileError, match=r"cannot write there \(Permission denied\); make it writable, or name"):
            peft.save_pretrained(own.parent / "other")
    own.parent.chmod(0o755)
    assert [p.name for p in own.parent.iterdir()] == ["own"]


def test_saving_onto_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    for model in (base(), adapter(1)):
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(FileError, match="file is a file; name a folder"):
                model.save_pretrained(path)
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_replaced(tmp_path):
    adapter(1).save_pretrained(tmp_path)
    before = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / HF_CONFIG).unlink()
    (tmp_path / HF_CONFIG).mkdir()
    with pytest.raises(FileError, match=f"{HF_CONFIG}: a folder is in the way of the file; rename it"):
        adapter(2).save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == before
    assert names(tmp_path) == EVERY_FORM - {HF_CONFIG}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_while_staging_leaves_the_old_set_and_no_new_folder(error, tmp_path):
    save(tmp_path / "old", "1", "a.json")
    for folder in ("old", "new/below"):
        with pytest.raises(error), file_set(tmp_path / folder) as part:
            (part / "a.json").write_text("2")
            raise error
    assert read_text(tmp_path / "old" / "a.json") == "1"
    assert names(tmp_path) == {"old/a.json"}
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def read_text(path):
    return current(path).read_text()


OLD = adapter(1)
NEW = {"the same form": adapter(2), "no Hugging Face form": adapter(3, AdapterConfig(r=2))}


@pytest.mark.parametrize("room", range(7))  # five are synced before the commit, two after it
def test_a_disk_that_becomes_full_leaves_the_old_adapter_or_the_new_one(room, tmp_path, monkeypatch):
    OLD.save_pretrained(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    synced = []

    def full(path, real=atomic.sync):
        synced.append(path)
        if len(synced) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    monkeypatch.setattr(atomic, "sync", full)
    monkeypatch.setattr(sets, "sync", full)
    committed = room >= 5
    message = "saved in .minipeft-save there" if committed else "device.; make room there, or name another folder"
    with pytest.raises(FileError, match=message):
        NEW["the same form"].save_pretrained(tmp_path)
    monkeypatch.undo()
    if not committed:
        assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    expected = NEW["the same form"] if committed else OLD
    assert state(PeftModel.from_pretrained(base(), tmp_path)) == state(expected)
    assert names(tmp_path) == EVERY_FORM


@pytest.mark.parametrize("kind", NEW)
def test_a_kill_at_any_step_leaves_the_old_adapter_or_the_new_one(kind, tmp_path):
    new, outcomes, step = NEW[kind], [], 0
    OLD.save_pretrained(with_foreign_files(tmp_path / "before"))
    while True:
        folder = shutil.copytree(tmp_path / "before", tmp_path / f"{step}")
        with killed_at(step) as done:
            new.save_pretrained(folder)
        if len(done) <= step:
            break
        assert foreign_files(folder) == FOREIGN
        kept = shutil.copytree(folder, tmp_path / f"{step}-read-only")
        with read_only():
            there = state(PeftModel.from_pretrained(base(), kept))
        assert there in (state(OLD), state(new))
        assert names(kept) == names(folder)  # nothing was moved
        assert state(PeftModel.from_pretrained(base(), folder)) == there
        assert not (folder / COMMITTED).exists()
        outcomes.append("new" if there == state(new) else "old")
        new.save_pretrained(folder)
        assert names(folder) == (EVERY_FORM if kind == "the same form" else SAVED)  # what was staged is gone
        assert foreign_files(folder) == FOREIGN
        step += 1
    assert outcomes == sorted(outcomes, reverse=True)  # old, old, …, new, new
    assert set(outcomes) == {"old", "new"}
    assert "new" in outcomes[:-3]  # some of the moves come after the commit


@contextmanager
def read_only():
    """No file can be renamed or removed, as in a folder that is not writable."""

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
            patch.setattr(os, name, refuse)
        yield


def test_a_kill_at_any_step_of_the_recovery_is_recovered_from(tmp_path):
    files = ("a.safetensors", "b.json", "c.json")
    save(tmp_path / "before", "old", *files)
    with killed_at(10**9) as done:
        save(tmp_path / "count", "new", *files)
    committed, step = done.index("rename") + 1, 0
    while True:
        folder = with_foreign_files(shutil.copytree(tmp_path / "before", tmp_path / f"{step}"))
        with killed_at(committed):
            save(folder, "new", *files)
        assert (folder / COMMITTED).exists()
        with killed_at(step) as done:
            current(folder / files[0])
        assert {read_text(folder / name) for name in files} == {"new"}
        assert foreign_files(folder) == FOREIGN
        assert names(folder) == set(files)
        if len(done) <= step:
            break
        step += 1
    assert step >= 5


def test_files_of_an_earlier_set_go_only_if_they_are_as_they_were_written(tmp_path):
    OLD.save_pretrained(tmp_path)
    changed = (tmp_path / HF_CONFIG).read_bytes() + b"\n"
    (tmp_path / HF_CONFIG).write_bytes(changed)  # somebody's edit
    NEW["no Hugging Face form"].save_pretrained(tmp_path)
    assert names(tmp_path) == {*SAVED, HF_CONFIG}
    assert (tmp_path / HF_CONFIG).read_bytes() == changed


def test_an_adapter_of_hugging_face_is_not_removed_by_a_method_without_such_a_form(tmp_path):
    OLD.save_pretrained(tmp_path)
    for name in SAVED:
        (tmp_path / name).unlink()
    NEW["no Hugging Face form"].save_pretrained(tmp_path)
    assert names(tmp_path) == EVERY_FORM


def test_an_adapter_that_another_program_saved_over_is_not_mistaken_for_the_earlier_one(tmp_path):
    for seed, name in ((1, "ours"), (2, "later")):
        adapter(seed).save_pretrained(tmp_path / name)
    for name in (HF_WEIGHTS, HF_CONFIG):  # as Hugging Face PEFT would
        shutil.copy(tmp_path / "later" / name, tmp_path / "ours")
    with pytest.raises(PeftError, match=f"{HF_WEIGHTS} was changed by another program after {WEIGHTS_FILE}"):
        PeftModel.from_pretrained(base(), tmp_path / "ours")
    for name in SAVED:
        (tmp_path / "ours" / name).unlink()
    found = PeftModel.from_pretrained(base(), tmp_path / "ours")
    assert state(found)[1] == state(adapter(2))[1]


def test_removals_reach_no_other_folder(tmp_path):
    (tmp_path / "victim").write_text("x")
    folder = tmp_path / "folder"
    save(folder, "y", "a.json", obsolete={"../victim": sha256(tmp_path / "victim"), "gone": "0"})
    assert (tmp_path / "victim").exists()
    assert names(folder) == {"a.json"}


def test_a_link_of_the_committed_name_is_not_followed(tmp_path):
    with_foreign_files(tmp_path / "private")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / COMMITTED).symlink_to(tmp_path / "private")
    assert not current(tmp_path / "folder" / "data.csv").exists()
    assert foreign_files(tmp_path / "private") == FOREIGN


def test_a_file_that_cannot_be_replaced_is_named_and_the_new_set_is_read(tmp_path, monkeypatch):
    save(tmp_path, '{"x": 1}', "a.json", "b.json")

    def replace(source, target, real=os.replace):
        if Path(target).name == "b.json" and Path(target).parent == tmp_path:
            raise PermissionError(errno.EPERM, "Operation not permitted", str(source), None, str(target))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(FileError, match=r"saved in .minipeft-save there, since b.json cannot be replaced"):
            save(tmp_path, '{"x": 2}', "a.json", "b.json")
        assert read_json(tmp_path / "a.json") == read_json(tmp_path / "b.json") == {"x": 2}
    assert read_json(tmp_path / "b.json") == {"x": 2}
    assert names(tmp_path) == {"a.json", "b.json"}


def test_of_sets_saved_at_once_one_is_there_whole(tmp_path):
    together = threading.Barrier(4)
    unexpected = []

    def write(i):
        try:
            with file_set(tmp_path) as part:
                for name in ("a.safetensors", "b.json", "c.json"):
                    (part / name).write_text(str(i))
                together.wait(timeout=30)
        except FileError as error:
            unexpected.append(error)

    with_foreign_files(tmp_path)
    for _ in range(20):
        threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert names(tmp_path) == {"a.safetensors", "b.json", "c.json"}
        assert len({(tmp_path / name).read_text() for name in names(tmp_path)}) == 1
    assert not unexpected
    assert foreign_files(tmp_path) == FOREIGN


def test_a_set_is_removed_without_what_it_does_not_hold(tmp_path):
    folder = with_foreign_files(tmp_path / "mixed")
    for where in (folder, tmp_path / "pure"):
        save(where, "x", "a.json", "b.safetensors")
        remove_set(where, "a.json", "b.safetensors")
    remove_set(tmp_path / "absent", "a.json")
    assert foreign_files(folder) == FOREIGN
    assert not names(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["mixed"]


def test_files_of_a_set_have_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    adapter(1).save_pretrained(tmp_path / "set")
    ordinary = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "set").iterdir()} == {ordinary}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_of_200_saves_killed_at_random_moments_each_leaves_an_adapter_and_every_foreign_file():
    script = Path(__file__).with_name("kill_saves.py")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, script, "200"], env={**os.environ, **threads}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = ast.literal_eval(done.stdout)
    assert found["old"] + found["new"] == 200
    assert min(found["old"], found["new"], found["killed"]) > 20


def test_a_base_model_under_an_adapter_is_not_saved_as_a_model(tmp_path):
    model = DecoderLM(DecoderConfig.gpt2(11, 8, 1, 2, context=4))
    adapted = get_peft_model(model, LoraConfig(r=2))
    with pytest.raises(ValueError, match="this DecoderLM has an adapter: save the adapter"):
        adapted.base_model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    adapted.merge_and_unload().save_pretrained(tmp_path / "model")
    assert DecoderLM.from_pretrained(tmp_path / "model").config == model.config
