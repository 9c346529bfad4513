"""Tests of vhost9p.vhost_user. The bytes are made by tests.frontend, not by the code under test."""
