"""Local data: reading it, declaring its schema, and dealing it out to clients for a simulation."""

from choral.data.examples import Examples, encode, read_examples
from choral.data.ids import NumberedIds, client_id
from choral.data.idx import read_idx, read_images, read_labels
from choral.data.partition import Partition
from choral.data.partitioners import (
    PARTITIONERS,
    by_column,
    by_quantity,
    dirichlet,
    iid,
    labels_per_client,
    partition_data,
    partition_file,
    shards,
)
from choral.data.schema import Column, ColumnType, Schema
from choral.data.sources import (
    FolderSource,
    MappingSource,
    PartitionSource,
    SequenceSource,
    as_source,
)
from choral.data.split import Subset
from choral.data.summary import Summary, summary
from choral.data.tables import Table, read_table

__all__ = [
    "PARTITIONERS",
    "Column",
    "ColumnType",
    "Examples",
    "FolderSource",
    "MappingSource",
    "NumberedIds",
    "Partition",
    "PartitionSource",
    "Schema",
    "SequenceSource",
    "Subset",
    "Summary",
    "Table",
    "as_source",
    "by_column",
    "by_quantity",
    "client_id",
    "dirichlet",
    "encode",
    "iid",
    "labels_per_client",
    "partition_data",
    "partition_file",
    "read_examples",
    "read_idx",
    "read_images",
    "read_labels",
    "read_table",
    "shards",
    "summary",
]
