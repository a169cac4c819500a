"""A class: grading all submissions, pages, Gradescope, handouts."""
