"""The Helm chart, and what is generated from its values: schema and README."""
