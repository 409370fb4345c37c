"""Updates of services that exist, from one version of the template to another, with git."""
