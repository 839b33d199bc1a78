"""Which training chunks mention an entity: one query over memory-mapped postings."""
