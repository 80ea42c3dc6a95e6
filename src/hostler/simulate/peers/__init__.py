"""The scaling rules that others publish, one file each, as policies for the simulator.

They are written from the published rules, with the published defaults and names. Bounds are open (0 to 1,000 replicas)
unless a caller sets them, so that what is compared is the rule and not the default of a bound.
"""

from hostler.simulate.peers.clarifai import Clarifai
from hostler.simulate.peers.dstack import Dstack
from hostler.simulate.peers.fedml import Fedml
from hostler.simulate.peers.fixed import Fixed
from hostler.simulate.peers.knative import Knative
from hostler.simulate.peers.ray import Ray
from hostler.simulate.peers.skyserve import SkyServe

__all__ = ["Clarifai", "Dstack", "Fedml", "Fixed", "Knative", "Ray", "SkyServe"]
