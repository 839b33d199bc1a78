"""What LMEnt, OLMo and Pythia published: their data orders, LMEnt's dataset, its questions with chunks."""

from chunk_provenance.published.lment_order import lment_readme_step, update_of_readme_step
from chunk_provenance.published.object_arrays import read_rows
from chunk_provenance.published.olmo_order import compute_olmo_order
from chunk_provenance.published.opening import open_order, order_files
from chunk_provenance.published.popqa_kas import PopqaKas, read_popqa_kas
from chunk_provenance.published.pythia_order import pythia_row_order

__all__ = [
    "PopqaKas",
    "compute_olmo_order",
    "lment_readme_step",
    "open_order",
    "order_files",
    "pythia_row_order",
    "read_popqa_kas",
    "read_rows",
    "update_of_readme_step",
]
