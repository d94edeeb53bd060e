//! Every interleaving of a client and a server.
