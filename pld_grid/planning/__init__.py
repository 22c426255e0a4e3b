"""Turn cells into waves of cohorts, and forecast what they cost."""
