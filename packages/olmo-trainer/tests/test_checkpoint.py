import json

import pytest
import torch
from torch import nn

from olmo_trainer.checkpoint import (
    DamagedCheckpointError,
    atomic_folder,
    export_steps,
    load_optimizer,
    load_weights,
    newest_resume_state,
    read_state,
    remove_unfinished,
    resume_folders,
    save_resume_state,
    verify,
)
from olmo_trainer.config import OptimConfig
from olmo_trainer.setup import make_optimizer


class Tiny(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def update(model, optimizer):
    model(torch.tensor([1, 2, 4])).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.fixture
def trained():
    """A model and its optimiser after two updates."""
    model = Tiny(seed=0)
    optimizer = make_optimizer(model, OptimConfig())
    for _ in range(2):
        update(model, optimizer)
    return model, optimizer


def save(folder, trained, step, keep_last=2):
    save_resume_state(folder, *trained, state={"step": step}, keep_last=keep_last)


def test_a_resume_state_gives_back_weights_and_optimiser_exactly(trained, tmp_path):
    model, optimizer = trained
    save(tmp_path, trained, step=2)
    other = Tiny(seed=1)
    other_optimizer = make_optimizer(other, OptimConfig())
    folder = newest_resume_state(tmp_path)
    load_weights(folder, other)
    load_optimizer(folder, other, other_optimizer)
    assert read_state(folder)["step"] == 2
    for _ in range(2):
        update(model, optimizer)
        update(other, other_optimizer)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


def test_only_the_newest_states_are_kept_also_past_step_ten(trained, tmp_path):
    for step in (2, 8, 10, 100):
        save(tmp_path, trained, step)
    assert [step for step, _ in resume_folders(tmp_path)] == [10, 100]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "unseal"])
def test_a_damaged_state_is_passed_over_with_a_message(trained, tmp_path, caplog, damage):
    save(tmp_path, trained, step=1)
    save(tmp_path, trained, step=2)
    weights = tmp_path / "step2" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    match damage:
        case "flip":
            weights.write_bytes(content)
        case "cut":
            weights.write_bytes(content[:-1])
        case "remove":
            weights.unlink()
        case "unseal":
            (tmp_path / "step2" / "COMPLETE.json").unlink()
    assert newest_resume_state(tmp_path) == tmp_path / "step1"
    assert "step2 is damaged" in caplog.text
    assert (tmp_path / "step2.damaged").is_dir()
    save(tmp_path, trained, step=2)  # there is room for a good one again
    verify(tmp_path / "step2")


def test_without_any_good_state_there_is_none(tmp_path):
    assert newest_resume_state(tmp_path) is None


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    def fail():
        with atomic_folder(tmp_path / "step1") as folder:
            (folder / "a").write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == [".step1.tmp"]
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_seal_names_every_file(tmp_path):
    with atomic_folder(tmp_path / "step1") as folder:
        (folder / "a").write_bytes(b"abc")
    sealed = json.loads((tmp_path / "step1" / "COMPLETE.json").read_text(encoding="utf-8"))
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sealed["files"] == {"a": {"bytes": 3, "sha256": digest}}


def test_a_folder_without_a_seal_is_damaged(tmp_path):
    with pytest.raises(DamagedCheckpointError, match=r"no readable COMPLETE\.json"):
        verify(tmp_path)


def test_exports_are_zero_powers_of_two_multiples_and_the_last():
    assert export_steps(total=40, every=16, log_until=8, steps=(5, 99)) == [0, 1, 2, 4, 5, 8, 16, 32, 40]
    assert export_steps(total=3, every=None, log_until=0, steps=()) == [0, 3]
