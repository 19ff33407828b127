"""Data sets: known ones by name, the user's own by path, and augmentation.

`load_dataset("mnist")` gives a `Dataset` of two `Split`s; whatever is wrong with the files is a
`flowclf.support.errors.UserError` in one line.
"""

from flowclf.data.arrays import from_arrays
from flowclf.data.augment import KINDS as AUGMENTATIONS
from flowclf.data.augment import Augmentation, make_augmentation
from flowclf.data.binarize import binarize, ending_binary
from flowclf.data.dataset import Dataset, Reading, Split, hold_out, keep_labels, stratified, subset
from flowclf.data.load import (
    DATASETS,
    DatasetInfo,
    absolute_name,
    load_dataset,
    locate,
    public_name,
)
from flowclf.data.objects import as_dataset
from flowclf.data.outliers import Outliers, load_outliers
from flowclf.data.shard_folder import write_shards
from flowclf.data.source import DataSource
from flowclf.data.table import from_frame
from flowclf.data.text import TextOptions, word_frequencies

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "Augmentation",
    "DataSource",
    "Dataset",
    "DatasetInfo",
    "Outliers",
    "Reading",
    "Split",
    "TextOptions",
    "absolute_name",
    "as_dataset",
    "binarize",
    "ending_binary",
    "from_arrays",
    "from_frame",
    "hold_out",
    "keep_labels",
    "load_dataset",
    "load_outliers",
    "locate",
    "make_augmentation",
    "public_name",
    "stratified",
    "subset",
    "word_frequencies",
    "write_shards",
]
