"""Whether the chunks of a store can be trained on with so many tokens an update, and what to change."""


def check_buckets(sizes: dict[int, int], *, batch_tokens: int) -> None:
    """Refuse buckets (padded length -> number of chunks) that can never be trained at `batch_tokens`."""
    if batch_tokens < 1:
        raise ValueError(f"--batch-tokens {batch_tokens} must be at least the largest chunk length")
    if uneven := [size for size in sizes if batch_tokens % size]:
        raise ValueError(f"--batch-tokens {batch_tokens} is not a multiple of the chunk lengths {uneven}")
    short = _short_buckets(sizes, batch_tokens)
    if not short:
        return
    found = ", ".join(
        f"length {size}: {count} chunk{'s' * (count > 1)}, an update takes {batch_tokens // size}"
        for size, count in short.items()
    )
    raise ValueError(
        f"with --batch-tokens {batch_tokens} some chunks could never be trained ({found}): "
        + ", or ".join(_sizes_that_work(sizes, batch_tokens))
    )


def _short_buckets(sizes: dict[int, int], batch_tokens: int) -> dict[int, int]:
    return {size: count for size, count in sizes.items() if count < batch_tokens // size}


def _sizes_that_work(sizes: dict[int, int], batch_tokens: int) -> list[str]:
    """What to change so that every bucket fills an update."""
    ascending, largest = sorted(sizes), max(sizes)
    lower = [
        f"--max-length {limit}"
        for limit in ascending[-2::-1]
        if largest in _short_buckets(sizes, batch_tokens)
        and not _short_buckets(_merge_buckets(sizes, max_length=limit), batch_tokens)
    ]
    raised = [
        f"--min-length {limit}"
        for limit in ascending[1:]
        if not _short_buckets(_merge_buckets(sizes, min_length=limit), batch_tokens)
    ]
    limits = [*lower[:1], *raised[:1]]
    advice = [f"build the store with {' or '.join(limits)}"] if limits else []
    if fitting := min(size * count for size, count in sizes.items()) // largest * largest:
        advice.append(f"use --batch-tokens {fitting} or a smaller multiple of {largest}")
    return advice or ["build the store with a smaller --max-length"]


def _merge_buckets(
    sizes: dict[int, int], *, min_length: int = 0, max_length: int | None = None
) -> dict[int, int]:
    """About how many chunks the buckets would have with other limits."""
    merged: dict[int, int] = {}
    for size, count in sizes.items():
        limit = size if max_length is None else min(size, max_length)
        new = max(min_length, limit)
        merged[new] = merged.get(new, 0) + count * (size // limit)
    return merged
