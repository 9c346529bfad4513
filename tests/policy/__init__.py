"""Tests of vhost9p.policy; the qid map of the C layer is always the real one."""
