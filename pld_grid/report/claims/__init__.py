"""The paper's claims as data: judged by its own printed tables, and by the cells of a run."""

from pld_grid.report.claims.judge import Verdict, judge
from pld_grid.report.claims.pages import claims_csv, claims_markdown, claims_section
from pld_grid.report.claims.reading import Claim, read_claims

__all__ = ["Claim", "Verdict", "claims_csv", "claims_markdown", "claims_section", "judge", "read_claims"]
