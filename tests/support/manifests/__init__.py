"""What the manifests of knative/ and kafka-sources/ must keep to, as functions over parsed documents.

`problems` runs all of it. Every problem is one line that names file and field. The rules are those of Knative 1.23's
webhooks and data plane, as far as they can be told without a cluster, and those of this project.
"""

from tests.support.manifests.deployments import problems

__all__ = ["problems"]
