"""Says what point cloud files hold, and proposes how to train a network on them."""

from kpdeform.inspection.reading import Reading, find_clouds
from kpdeform.inspection.survey import Attribute, Survey, merge, survey_file, survey_files
from kpdeform.inspection.tables import Table, print_tables, remarks, tables_of

__all__ = [
    "Attribute",
    "Reading",
    "Survey",
    "Table",
    "find_clouds",
    "merge",
    "print_tables",
    "remarks",
    "survey_file",
    "survey_files",
    "tables_of",
]
