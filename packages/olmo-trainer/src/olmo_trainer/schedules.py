"""Learning rates, as functions of the update's number (1-based): the formulas of OLMo-core."""

import math

from olmo_trainer.config import OptimConfig, ScheduleConfig


def learning_rate(update: int, *, total: int, optim: OptimConfig, schedule: ScheduleConfig) -> float:
    """The rate of one update out of `total`: up to the peak over the warm-up, then as the schedule says.

    >>> optim, schedule = OptimConfig(lr=1.0), ScheduleConfig(name="linear", warmup_steps=2, min_ratio=0.0)
    >>> [learning_rate(update, total=6, optim=optim, schedule=schedule) for update in range(1, 7)]
    [0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    peak = optim.lr
    floor = peak * schedule.min_ratio
    warmup = warmup_steps(total, schedule)
    if update < warmup:
        start = peak * schedule.warmup_start
        return start + (peak - start) * update / warmup
    if update >= total and schedule.name != "constant":
        return floor
    match schedule.name:
        case "constant":
            return peak
        case "linear":
            return peak - (peak - floor) * (update - warmup) / (total - warmup)
        case "cosine":
            return floor + (peak - floor) * (1 + math.cos(math.pi * (update - warmup) / (total - warmup))) / 2
        case "wsd":
            decay = decay_steps(total, schedule)
            return floor + (peak - floor) * min(1.0, (total - update) / decay)


def warmup_steps(total: int, schedule: ScheduleConfig) -> int:
    """The number of warm-up updates."""
    fraction = round(total * schedule.warmup_fraction)
    return fraction if schedule.warmup_steps is None else schedule.warmup_steps


def decay_steps(total: int, schedule: ScheduleConfig) -> int:
    """The number of updates over which `wsd` decays."""
    fraction = max(1, round(total * schedule.decay_fraction))
    return fraction if schedule.decay_steps is None else schedule.decay_steps
