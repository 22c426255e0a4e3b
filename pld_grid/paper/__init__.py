"""Code for this one paper only: its loss landscapes and the audit of its teachers."""
