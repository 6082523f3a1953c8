"""Students: built from a configuration, cut from the teacher, or pretrained."""
