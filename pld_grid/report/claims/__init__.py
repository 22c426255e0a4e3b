"""The paper's claims as data, judged by the paper's own printed tables and by the cells of a run."""
