//! ovs-vswitchd's control socket (ovs-appctl(8)): is it alive, and what does its datapath see.
