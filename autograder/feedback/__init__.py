"""Write what students and staff read: causes, reasons, reports, results.json."""
