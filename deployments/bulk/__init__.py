"""Many prompts on Ray Data: an actor pool a stage, around the same engines as the service's."""

from deployments.bulk.command import bulk

__all__ = ["bulk"]
