"""Says what point cloud files hold, and proposes how to train a network on them."""

from kpdeform.inspection.configuration import check_target, commands, write_configuration
from kpdeform.inspection.page import write_page
from kpdeform.inspection.proposal import Proposal, proposal_table, propose
from kpdeform.inspection.reading import Reading, find_clouds
from kpdeform.inspection.survey import Attribute, Survey, merge, survey_file, survey_files
from kpdeform.inspection.tables import Table, print_tables, remarks, tables_of
from kpdeform.inspection.trial import Trial, trial_table, try_out

__all__ = [
    "Attribute",
    "Proposal",
    "Reading",
    "Survey",
    "Table",
    "Trial",
    "check_target",
    "commands",
    "find_clouds",
    "merge",
    "print_tables",
    "proposal_table",
    "propose",
    "remarks",
    "survey_file",
    "survey_files",
    "tables_of",
    "trial_table",
    "try_out",
    "write_configuration",
    "write_page",
]
