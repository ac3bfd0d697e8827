"""From files to volumes: manifests, NIfTI and DICOM, the working grid, the phantoms."""
