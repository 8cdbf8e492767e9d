"""Clinical priority as people order it: HL7 v2 over MLLP, and the modality worklist."""
