import numpy as np
import pytest
from torch.nn.utils import clip_grad_norm_

from olmo_trainer.config import OptimConfig
from olmo_trainer.loss import next_token_loss
from olmo_trainer.setup import make_optimizer


def test_three_updates_give_the_golden_losses_and_parameters(
    golden_model, golden_batch, expected, golden_path
):
    optimizer = make_optimizer(golden_model, OptimConfig(lr=1e-3))
    for want in expected["adamw_trajectory"]:
        for group in optimizer.param_groups:
            group["lr"] = want["lr"]
        loss, metrics = next_token_loss(golden_model, golden_batch(), z_weight=1e-4)
        loss.backward()
        grad_norm = clip_grad_norm_(golden_model.parameters(), 1.0)
        assert metrics["ce"].item() == pytest.approx(want["ce"], abs=1e-5)
        assert metrics["z"].item() == pytest.approx(want["z_loss"], abs=1e-6)
        assert grad_norm.item() == pytest.approx(want["grad_norm"], rel=1e-5)
        optimizer.step()
        optimizer.zero_grad()
    golden = np.load(golden_path / "params_after_3_adamw_steps.npz")
    for name, parameter in golden_model.named_parameters():
        # an update moves a value by up to 3e-4; where a gradient is nearly zero its sign is rounding
        np.testing.assert_allclose(parameter.detach().numpy(), golden[name], rtol=0, atol=2e-5, err_msg=name)


def test_only_the_input_embeddings_are_not_decayed(golden_model):
    decayed, embeddings = make_optimizer(golden_model, OptimConfig(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], embeddings["weight_decay"]) == (0.1, 0.0)
    assert embeddings["params"] == [golden_model.model.embed_tokens.weight]
    assert len(decayed["params"]) + 1 == len(list(golden_model.parameters()))
