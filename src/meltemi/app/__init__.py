"""The composition root of the control plane: the one place that joins the packages."""
