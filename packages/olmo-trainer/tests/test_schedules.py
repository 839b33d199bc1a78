import json

import pytest

from olmo_trainer.config import OptimConfig, ScheduleConfig
from olmo_trainer.schedules import learning_rate


@pytest.mark.parametrize(
    ("golden_name", "schedule"),
    [
        ("cos_with_warmup(warmup=10,alpha_f=0.1)", {"name": "cosine"}),
        ("cos_with_warmup(warmup=10,alpha_f=0.0)", {"name": "cosine", "min_ratio": 0.0}),
        ("linear_with_warmup(warmup=10,alpha_f=0.1)", {"name": "linear"}),
        ("wsd(warmup=10,decay=20)", {"name": "wsd", "min_ratio": 0.0, "decay_steps": 20}),
        ("wsd(warmup=10,decay_fraction=0.1)", {"name": "wsd", "min_ratio": 0.0}),
        ("constant_with_warmup(warmup=10)", {"name": "constant"}),
    ],
)
def test_rates_are_those_of_olmo_core(golden_path, golden_name, schedule):
    golden = json.loads((golden_path / "lr_schedules_olmo_core.json").read_text(encoding="utf-8"))
    found = [
        learning_rate(
            update,
            total=100,
            optim=OptimConfig(lr=3e-4),
            schedule=ScheduleConfig(warmup_fraction=0.1, **schedule),
        )
        for update in range(101)
    ]
    assert found == pytest.approx(golden["lr"][golden_name][:101], rel=1e-12, abs=1e-18)


def test_a_warmup_longer_than_the_run_never_reaches_the_peak():
    schedule = ScheduleConfig(warmup_steps=10)
    assert learning_rate(2, total=3, optim=OptimConfig(lr=1.0), schedule=schedule) == 0.2
