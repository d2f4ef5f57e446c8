"""What solo needs of Argo CD and of Kubernetes' Deployment and Service controllers.

A release travels through here: `applications` brings a commit's manifests into the Store, `deployments` turns a
Deployment into pods one step of the roll at a time, `services` gives the pods one address that outlives them.
"""

from solo.cd.applications import Applications, delete
from solo.cd.deployments import Deployments
from solo.cd.problems import Problem
from solo.cd.services import AddressTakenError, Services
from solo.cd.spec import check

__all__ = ["AddressTakenError", "Applications", "Deployments", "Problem", "Services", "check", "delete"]
