//! The service: decisions in a world, routes, and the client with the simulator.
