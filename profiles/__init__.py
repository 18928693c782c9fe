"""The profiles that ship with monitorgen, as YAML."""
