"""Stand-in for nvdiffrast: imported with threestudio, used by nothing in the tests."""
