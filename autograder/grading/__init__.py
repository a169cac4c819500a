"""From a submission to points: references, comparison, credit."""
