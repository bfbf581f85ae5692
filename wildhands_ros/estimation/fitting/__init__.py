"""What fits of a hand model to landmarks are made of: kinematics, evidence, cost terms and the minimiser."""
