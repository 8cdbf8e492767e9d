"""What can be seen: from a DICOM file to probabilities."""
