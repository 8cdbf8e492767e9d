"""The DICOM network: what is accepted, guarded and handed on."""
