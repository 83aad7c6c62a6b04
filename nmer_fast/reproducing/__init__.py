"""The paper's tables from a sweep's results: published values, significance, and the files they are written to."""

from typing import Literal

TableName = Literal["table1", "table2", "table3", "table4", "table5", "unseen", "all"]
